package main

import (
	"errors"
	"fmt"
	"regexp"
)

const (
	clientMemory    = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
	clientPartition = "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING"
)

// clientMemoryForm is the one form of a client's memory limit that lowers the daemon's: for its GPU number 0.
var clientMemoryForm = regexp.MustCompile(`^0=[1-9][0-9]*[MG]$`)

// clientProblems returns every variable of a client's environment that would lift the daemon's limits instead of lowering
// them, or nil. Measured on an H100: docs/learn/05-mps-limits.md.
func clientProblems(get func(string) string) error {
	var problems []error
	if value := get(clientMemory); value != "" && !clientMemoryForm.MatchString(value) {
		problems = append(problems, fmt.Errorf("%s: %q would lift the memory limit; set one like 0=512M or 0=1G, or none", clientMemory, value))
	}
	if value := get(clientPartition); value != "" {
		problems = append(problems, fmt.Errorf("%s: %q would give all SMs that are asked for; leave it out", clientPartition, value))
	}
	return errors.Join(problems...)
}
