// SPDX-License-Identifier: Apache-2.0

// Package apiserver finds the API server for both programs.
package apiserver

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Config reads a kubeconfig file, or with an empty path the Pod's
// ServiceAccount. The program's name is told to the API server.
//
// The client doesn't throttle itself: a thousand writes may be due at once,
// and the API server's priority and fairness knows better what it can take.
// Nor does it have answers compressed: the API server is a LAN away, and
// compressing costs it more than it saves.
func Config(kubeconfig, program string) (*rest.Config, error) {
	var config *rest.Config
	var err error
	if kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	} else {
		config, err = rest.InClusterConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("no way to reach the API server: %w (give --kubeconfig outside a cluster)", err)
	}
	config.QPS = -1
	config.UserAgent = program
	config.DisableCompression = true
	return config, nil
}
