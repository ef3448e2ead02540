// SPDX-License-Identifier: Apache-2.0

package router

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// bird runs BIRD 2 with its files in the router's own folder.
type bird struct{ Place }

func (b bird) start(ctx context.Context, c Config, again bool) ([]*sandbox.Process, error) {
	if err := b.write(c); err != nil {
		return nil, err
	}
	args := []string{"-f", "-c", b.file("bird.conf"), "-s", b.file("bird.ctl")}
	if again && c.Restart == Restarter {
		args = append(args, "-R")
	}
	process := b.Name + "/bird"
	p, err := b.Namespace.Start(sandbox.Command{Name: process, Path: "bird", Args: args, Hostname: b.Name, Log: b.Log(process)})
	if err != nil {
		return nil, err
	}
	return []*sandbox.Process{p}, p.Await(ctx, process+" answers", func(ctx context.Context) error {
		_, err := b.ask(ctx, "show status")
		return err
	})
}

func (b bird) write(c Config) error {
	return os.WriteFile(b.file("bird.conf"), []byte(birdText(c)), 0o600)
}

func (b bird) change(ctx context.Context, _, to Config) error {
	if err := b.write(to); err != nil {
		return err
	}
	_, err := b.ask(ctx, "configure")
	return err
}

func (b bird) command(ctx context.Context, line string) (string, error) {
	lines, err := b.ask(ctx, line)
	return strings.Join(lines, "\n"), err
}

func (b bird) sessions(ctx context.Context) ([]Session, error) {
	protocols, err := b.ask(ctx, "show protocols all")
	if err != nil {
		return nil, err
	}
	watched, err := b.ask(ctx, "show bfd sessions")
	if err != nil {
		return nil, err
	}
	return parseBIRDSessions(protocols, watched)
}

func (b bird) table(ctx context.Context, prefix netip.Prefix) ([]Path, error) {
	command := "show route all"
	if prefix.IsValid() {
		command += " " + prefix.String()
	}
	lines, err := b.ask(ctx, command)
	if refused, ok := errors.AsType[*birdError](err); ok && refused.code == birdNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	paths, err := parseBIRDTable(lines)
	if err != nil {
		return nil, err
	}
	// BIRD does not say of a path that it is stale, but that it waits for a neighbour.
	sessions, err := b.sessions(ctx)
	if err != nil {
		return nil, err
	}
	for i := range paths {
		paths[i].Stale = slices.ContainsFunc(sessions, func(s Session) bool { return s.Neighbor == paths[i].Neighbor && s.Restart.Waiting })
	}
	return paths, nil
}

// ask gives BIRD a command over its socket, as birdc does, and returns the lines of the answer. Answers have codes of four
// digits, and a hyphen behind the code if more follows.
func (b bird) ask(ctx context.Context, line string) ([]string, error) {
	conn, err := dialUnix(ctx, b.file("bird.ctl"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	if _, err := readBIRD(reader); err != nil { // the greeting
		return nil, err
	}
	if _, err := conn.Write([]byte(line + "\n")); err != nil {
		return nil, err
	}
	return readBIRD(reader)
}

// birdError is an answer that says no.
type birdError struct{ code, text string }

// birdNotFound is the code for a network that is not in the table.
const birdNotFound = "8001"

func (e *birdError) Error() string { return fmt.Sprintf("BIRD refuses: %s %s", e.code, e.text) }

func readBIRD(r *bufio.Reader) ([]string, error) {
	var lines []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("reading BIRD's answer: %w", err)
		}
		line = strings.TrimSuffix(line, "\n")
		if text, ok := strings.CutPrefix(line, " "); ok { // goes on as before
			lines = append(lines, text)
			continue
		}
		if len(line) < 5 {
			return nil, fmt.Errorf("BIRD's answer has a line %q", line)
		}
		code, more, text := line[:4], line[4] == '-', line[5:]
		if code[0] >= '8' {
			return nil, &birdError{code, text}
		}
		if text != "" {
			lines = append(lines, text)
		}
		if !more {
			return lines, nil
		}
	}
}
