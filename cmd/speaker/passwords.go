// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/speaker/source"
)

// passwordSecrets follows the Secrets that a flag names, each by its name: the
// right to read it is good for no list of several.
func passwordSecrets(config *rest.Config, f flags) (*source.Secrets, error) {
	api, err := corev1client.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make the client for Secrets: %w", err)
	}
	var names []string
	for name := range strings.SplitSeq(f.passwordSecrets, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return source.NewSecrets(f.pod.Namespace, names, func(name string) toolscache.ListerWatcher {
		return toolscache.NewListWatchFromClient(api.RESTClient(), "secrets", f.pod.Namespace, fields.OneTermEqualSelector("metadata.name", name))
	}), nil
}
