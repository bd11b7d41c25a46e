package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReadyIsBounded(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	r := n.runUntilReady()
	daemon := daemonOf(t, r)
	must(t, syscall.Kill(daemon, syscall.SIGSTOP))
	began := time.Now()
	n.expect(1, []string{"ready"}, "the MPS daemon does not answer at "+n.pipe("")+": no answer in 2.5s")
	if took := time.Since(began); took > 4*time.Second {
		t.Fatalf("took %s", took)
	}
	must(t, syscall.Kill(daemon, syscall.SIGCONT))
	n.expect(0, []string{"ready"})
}

func TestClientsWaitUntilTheDaemonIsReady(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	first := n.runUntilReady()
	n.expect(0, []string{"wait"})
	must(t, first.cmd.Process.Kill()) // a marker and a socket stay behind
	<-first.done
	client := *n
	client.env = append(slices.Clone(n.env), "PATH=/nowhere")
	waiting, interrupted := client.start("wait"), client.start("wait")
	waiting.until("mps-daemon: waiting: the MPS daemon does not answer at " + n.pipe(""))
	interrupted.until("waiting")
	must(t, interrupted.cmd.Process.Signal(syscall.SIGTERM))
	interrupted.ends(1, "ended before the daemon was ready")
	n.runUntilReady()
	waiting.ends(0)
}

func TestClientThatWaitsItselfIsItsProgramThen(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	waiting := n.start("wait", "--", "sh", "-c", "echo $0 as $$ with $ACTIVE_THREAD_PERCENTAGE; exit 7", "-x")
	waiting.until("mps-daemon: waiting: ")
	n.runUntilReady()
	waiting.ends(7, fmt.Sprintf("-x as %d with 50", waiting.cmd.Process.Pid))
	n.expect(1, []string{"wait", "--", "no-such-program"}, `mps-daemon: wait: cannot start "no-such-program", PATH is "`)
}

func TestClientWhoseEnvironmentLiftsALimitIsNotStarted(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	n.runUntilReady()
	client := func(env ...string) *node {
		return &node{n.t, n.folder, append(slices.Clone(n.env), env...)}
	}
	started := []string{"wait", "--", "echo", "started"}
	for _, value := range []string{"junk", "1=1G", "0=0M", "0=1G,1=1G", "0=1"} {
		out := client("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="+value).expect(2, started,
			fmt.Sprintf("mps-daemon: CUDA_MPS_PINNED_DEVICE_MEM_LIMIT: %q would lift the memory limit; set one like 0=512M", value))
		if out != "" {
			t.Fatalf("%s: %s", value, out)
		}
	}
	client("CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING=1", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=junk").expect(2, started,
		"PARTITIONING: \"1\" would give all SMs", "MEM_LIMIT: \"junk\" would lift")
	client("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=1G", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=10").expect(0, started, "started")
}

func TestClientWaitsForTheLimitsThatItNames(t *testing.T) {
	t.Parallel()
	n := newNode(t, "", "PINNED_DEVICE_MEMORY_LIMIT=8G")
	n.runUntilReady()
	client := func(wanted string) *node {
		return &node{n.t, n.folder, append(slices.Clone(n.env), "MPS_DAEMON_LIMITS="+wanted)}
	}
	// Those that the daemon was started with.
	client("50/8G").expect(0, []string{"wait", "--", "echo", "started"}, "started")
	waiting := client("25/4G").start("wait", "--", "echo", "started")
	waiting.until("are 50/8G, and MPS_DAEMON_LIMITS is 25/4G")
	apply := []string{"apply", "--active-thread-percentage=25", "--pinned-device-memory-limit=4G"}
	n.expect(0, apply) // by hand: it says nothing to those who wait, and those who have what they wait for stay so
	client("50/8G").expect(0, []string{"wait", "--", "echo", "started"}, "started")
	if strings.Contains(waiting.said.String(), "started") {
		t.Fatalf("it did not wait: %s", waiting.said)
	}
	n.expect(0, append(apply, "--announce"))
	waiting.ends(0, "started")
	old := client("50/8G").start("wait")
	old.until("are 25/4G, and MPS_DAEMON_LIMITS is 50/8G")
	info, err := os.Stat(n.pipe(markerName))
	must(t, err)
	if info.Mode().Perm() != 0o644 {
		t.Fatalf("clients of other users cannot read it: %s", info.Mode())
	}
	if files, _ := filepath.Glob(n.pipe(markerName) + "*"); len(files) != 1 {
		t.Fatalf("left behind: %v", files)
	}
}
