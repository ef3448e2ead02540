// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the fairlead.dev/v1alpha1 API: pools of addresses, the addresses in use, and the speakers.
//
// Every kind is cluster-scoped. Validation that one object allows is CEL in
// the generated CRDs, so a wrong manifest is refused when it is applied; what
// spans objects is reported as a condition.
//
// +kubebuilder:object:generate=true
// +groupName=fairlead.dev
package v1alpha1
