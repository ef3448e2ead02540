// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// pod is what a container's environment can ask about its Pod.
type pod struct{ name, namespace, node, account, addr string }

// containerCommand is the command line and environment by which a Pod's first container runs as a plain process: the
// program in place of the image, the container's arguments, and what its security context leaves it.
func containerCommand(spec corev1.PodSpec, p pod, program, kubeconfig string) (command, env []string, err error) {
	if len(spec.Containers) == 0 {
		return nil, nil, fmt.Errorf("it has no container")
	}
	c := spec.Containers[0]
	values := map[string]string{}
	for _, e := range c.Env {
		value := expand(e.Value, values)
		if e.ValueFrom != nil {
			if value, err = p.field(e); err != nil {
				return nil, nil, err
			}
		}
		values[e.Name] = value
		env = append(env, e.Name+"="+value)
	}
	command = confine(spec)
	command = append(command, program)
	for _, a := range c.Args {
		command = append(command, expand(a, values))
	}
	return append(command, "--kubeconfig="+kubeconfig), env, nil
}

// field resolves the downward API as far as a process has the fields.
func (p pod) field(e corev1.EnvVar) (string, error) {
	if e.ValueFrom.FieldRef != nil {
		switch e.ValueFrom.FieldRef.FieldPath {
		case "metadata.name":
			return p.name, nil
		case "metadata.namespace":
			return p.namespace, nil
		case "spec.nodeName":
			return p.node, nil
		case "spec.serviceAccountName":
			return p.account, nil
		case "status.podIP", "status.hostIP":
			return p.addr, nil
		}
	}
	return "", fmt.Errorf("the lab cannot resolve environment variable %s: %s", e.Name, e.ValueFrom.String())
}

// expand replaces $(NAME) by the value of an earlier variable; an unknown name stays as it is and $$ is a dollar sign, as
// the API reference of Container.args has it.
func expand(s string, values map[string]string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i == len(s)-1 {
			return b.String() + s
		}
		b.WriteString(s[:i])
		rest := s[i+1:]
		end := strings.IndexByte(rest, ')')
		switch {
		case rest[0] == '$':
			b.WriteByte('$')
			s = rest[1:]
		case rest[0] == '(' && end > 0:
			name := rest[1:end]
			if value, ok := values[name]; ok {
				b.WriteString(value)
			} else {
				b.WriteString("$(" + name + ")")
			}
			s = rest[end+1:]
		default:
			b.WriteByte('$')
			s = rest
		}
	}
}

// confine is the setpriv command that takes from the process what the security context takes from the container. A process
// of root that keeps one capability in its bounding set is what a container with that capability added is.
func confine(spec corev1.PodSpec) []string {
	var flags []string
	if uid := runAsUser(spec); uid != nil && *uid != 0 {
		id := strconv.FormatInt(*uid, 10)
		flags = append(flags, "--reuid="+id, "--regid="+id, "--clear-groups")
	}
	if sc := spec.Containers[0].SecurityContext; sc != nil {
		if caps := sc.Capabilities; caps != nil && dropsAll(caps) {
			set := "-all"
			for _, c := range caps.Add {
				set += ",+" + strings.ToLower(strings.TrimPrefix(string(c), "CAP_"))
			}
			flags = append(flags, "--inh-caps=-all", "--bounding-set="+set)
		}
		if !ptr.Deref(sc.AllowPrivilegeEscalation, true) {
			flags = append(flags, "--no-new-privs")
		}
	}
	if flags == nil {
		return nil
	}
	return append(append([]string{"setpriv"}, flags...), "--")
}

func dropsAll(c *corev1.Capabilities) bool {
	for _, d := range c.Drop {
		if d == "ALL" {
			return true
		}
	}
	return false
}

// runAsUser is the user of the first container, nil if the spec leaves that to the image.
func runAsUser(spec corev1.PodSpec) *int64 {
	if sc := spec.Containers[0].SecurityContext; sc != nil && sc.RunAsUser != nil {
		return sc.RunAsUser
	}
	if sc := spec.SecurityContext; sc != nil {
		return sc.RunAsUser
	}
	return nil
}

// probeURL is what a kubelet would fetch for the container's readiness probe.
func probeURL(c corev1.Container, podAddr netip.Addr) (string, error) {
	get := c.ReadinessProbe.HTTPGet
	port := get.Port.IntVal
	if get.Port.Type == intstr.String {
		for _, p := range c.Ports {
			if p.Name == get.Port.StrVal {
				port = p.ContainerPort
			}
		}
	}
	if port == 0 {
		return "", fmt.Errorf("the readiness probe's port %s is none of the container's", get.Port.String())
	}
	addr := podAddr
	if get.Host != "" {
		var err error
		if addr, err = netip.ParseAddr(get.Host); err != nil {
			return "", fmt.Errorf("the readiness probe's host: %w", err)
		}
	}
	return fmt.Sprintf("http://%s%s", netip.AddrPortFrom(addr, uint16(port)), get.Path), nil
}
