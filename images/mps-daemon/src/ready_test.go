package main

import (
	"fmt"
	"slices"
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
