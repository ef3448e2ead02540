// SPDX-License-Identifier: Apache-2.0

// Package meter reads what programs cost, and what they tell of themselves.
package meter

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process has used.
type Usage struct {
	CPU  time.Duration
	Peak int64 // of resident memory, in bytes
	File int64 // resident memory that is the program's file, which the system can drop and read again
}

// UsageOf reads what a process has used.
func UsageOf(pid int) (u Usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// proc(5): after the name in parentheses, utime and stime are the 12th and 13th field, in ticks of 10 ms.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, i := range []int{11, 12} {
		ticks, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return u, err
		}
		u.CPU += time.Duration(ticks) * 10 * time.Millisecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		for name, to := range map[string]*int64{"VmHWM:": &u.Peak, "RssFile:": &u.File} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				if err != nil {
					return u, err
				}
				*to = kb << 10
			}
		}
	}
	if u.Peak == 0 {
		return u, errors.New("no VmHWM in the process's status")
	}
	return u, nil
}

// Ran is how long a thread has run, more exactly than by its Usage.
func Ran(tid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", tid))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(stat), " ")
	ran, err := strconv.ParseInt(first, 10, 64)
	return time.Duration(ran), err
}

// Sample is one line of a page of Prometheus metrics.
type Sample struct {
	Labels map[string]string
	Value  float64
}

var (
	line  = regexp.MustCompile(`(?m)^(\w+)\{(.*)\} ([0-9.e+-]+)$`)
	label = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// ErrNone says that there is no metric of a name.
var ErrNone = errors.New("there is no such metric")

// Samples reads those of one metric that has labels.
func Samples(page, metric string) ([]Sample, error) {
	var found []Sample
	for _, m := range line.FindAllStringSubmatch(page, -1) {
		if m[1] != metric {
			continue
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", metric, err)
		}
		s := Sample{Labels: map[string]string{}, Value: value}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			s.Labels[l[1]] = l[2]
		}
		found = append(found, s)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("metric %s: %w", metric, ErrNone)
	}
	return found, nil
}
