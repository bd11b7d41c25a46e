package main

import (
	"testing"
)

func TestMissingProgramsAreExplainedByTheClaim(t *testing.T) {
	t.Parallel()
	n := newNode(t, "", "PATH=/nowhere")
	for _, command := range []string{"run", "status"} {
		n.expect(1, []string{command}, "nvidia-cuda-mps-control is not on PATH (/nowhere): this container sees no MPS programs",
			"its claim gave it no GPU, or the node's driver root has none")
	}
}

func TestWrongWordsAreExitCode2(t *testing.T) {
	t.Parallel()
	n := newNode(t, "", "CUDA_MPS_LOG_DIRECTORY=log", "ACTIVE_THREAD_PERCENTAGE=101")
	for _, c := range []struct {
		args []string
		text string
	}{
		{nil, "no command"},
		{[]string{"start"}, `"start" is no command`},
		{[]string{"--verbose"}, `"--verbose" is no command`},
		{[]string{"run", "--verbose"}, "run: flag provided but not defined: -verbose"},
		{[]string{"status", "x"}, `status: "x" is one word too many`},
		{[]string{"apply"}, "--active-thread-percentage is missing"},
		{[]string{"apply", "--active-thread-percentage", "10"}, "--pinned-device-memory-limit is missing"},
		{[]string{"apply", "--active-thread-percentage", "0", "--pinned-device-memory-limit", "1"}, `--active-thread-percentage: "0" is not a percentage`},
		{[]string{"apply", "--active-thread-percentage", "0", "--pinned-device-memory-limit", "1"}, `mps-daemon: --pinned-device-memory-limit: "1" is not a whole number`},
		{[]string{"run"}, "mps-daemon: CUDA_MPS_LOG_DIRECTORY: \"log\" is not an absolute path; set one like /run/nvidia/mps\nmps-daemon: ACTIVE_THREAD_PERCENTAGE: "},
	} {
		n.expect(2, c.args, c.text)
	}
	n = newNode(t, "", "CUDA_MPS_PIPE_DIRECTORY=")
	for _, command := range []string{"run", "ready", "status", "wait"} {
		n.expect(2, []string{command}, `CUDA_MPS_PIPE_DIRECTORY: "" is not an absolute path`)
	}
}

func TestHelpAndVersionAreExitCode0(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	for _, args := range [][]string{{"--help"}, {"-h"}, {"apply", "--help"}, {"install", "--help"}} {
		n.expect(0, args, "--per-device-pinned-memory-limit")
	}
	n.expect(0, []string{"--version"}, "mps-daemon unknown")
}
