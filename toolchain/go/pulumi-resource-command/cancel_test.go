package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	rpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
)

// running starts a command that writes the PIDs of its processes, one a line,
// to a file, and returns them when there are as many as wanted.
func (e *engine) running(ctx context.Context, command string, count int) (pids []int, done chan error) {
	e.t.Helper()
	file := filepath.Join(e.t.TempDir(), "pids")
	done = make(chan error, 1)
	go func() {
		_, err := e.tryCreate(ctx, props{"create": command, "environment": props{"PIDS": file}}, false)
		done <- err
	}()
	eventually(e.t, "the command's processes", func() bool {
		content, _ := os.ReadFile(file)
		return strings.Count(string(content), "\n") == count
	})
	content, err := os.ReadFile(file)
	must(e.t, err)
	for _, line := range strings.Fields(string(content)) {
		pid, err := strconv.Atoi(line)
		must(e.t, err)
		pids = append(pids, pid)
	}
	return pids, done
}

// gone says whether a process has ended; one that nobody has reaped yet, as
// happens in containers without an init process, has ended too.
func gone(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}

// ended is the error that a command's creation ended with, if it ended in time.
func ended(t *testing.T, done chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the command still runs after 10 s")
		return nil
	}
}

func expectGone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		eventually(t, "the end of process "+strconv.Itoa(pid), func() bool { return gone(pid) })
	}
}

const processTree = `sleep 300 & echo $! >> $PIDS; (sleep 300 & echo $! >> $PIDS; wait) & echo $! >> $PIDS; echo $$ >> $PIDS; wait`

func TestCancelLeavesNoProcessOfTheGroup(t *testing.T) {
	t.Parallel()
	e := startPlugin(t)
	pids, done := e.running(t.Context(), processTree, 4)
	e.cancel()
	expectError(t, ended(t, done), "interrupted", "cancelled")
	expectGone(t, pids)
}

func TestInterruptedCommandMayCleanUp(t *testing.T) {
	t.Parallel()
	e := startPlugin(t)
	pids, done := e.running(t.Context(), `trap 'echo cleaning up; exit 9' INT; echo $$ >> $PIDS; while :; do sleep 0.05; done`, 1)
	start := time.Now()
	e.cancel()
	expectError(t, ended(t, done), "interrupted", "cleaning up")
	if took := time.Since(start); took >= graceTime {
		t.Errorf("took %v although the command ended by itself", took)
	}
	if got := e.logged(); len(got) != 1 || got[0] != "cleaning up" {
		t.Errorf("logged %q", got)
	}
	expectGone(t, pids)
}

func TestCommandThatIgnoresTheInterruptIsKilledAfterTheGraceTime(t *testing.T) {
	t.Parallel()
	e := startPlugin(t)
	pids, done := e.running(t.Context(), `trap '' INT; echo $$ >> $PIDS; sleep 300`, 1)
	start := time.Now()
	e.cancel()
	expectError(t, ended(t, done), "interrupted")
	if took := time.Since(start); took < graceTime || took > graceTime+time.Second {
		t.Errorf("took %v", took)
	}
	expectGone(t, pids)
}

func TestProcessOutsideTheGroupDoesNotHoldUpACancel(t *testing.T) {
	t.Parallel()
	e := startPlugin(t)
	pids, done := e.running(t.Context(), `setsid sh -c 'echo $$ >> $PIDS; exec sleep 300' & wait`, 1)
	defer func() { _ = syscall.Kill(pids[0], syscall.SIGKILL) }()
	e.cancel()
	expectError(t, ended(t, done), "interrupted", "left its process group")
}

func TestStoppingThePluginStopsItsCommands(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			e := startPlugin(t)
			pids, done := e.running(t.Context(), processTree, 4)
			must(t, e.process.Process.Signal(signal))
			expectError(t, ended(t, done), "interrupted")
			expectGone(t, pids)
		})
	}
}

func TestKilledPluginTakesItsCommandAlong(t *testing.T) {
	t.Parallel()
	e := startPlugin(t)
	pids, _ := e.running(t.Context(), `echo $$ >> $PIDS; exec sleep 300`, 1)
	must(t, e.process.Process.Kill())
	expectGone(t, pids)
}

func TestLostEngineStopsTheCommand(t *testing.T) {
	t.Parallel()
	e := startPlugin(t)
	pids, _ := e.running(t.Context(), processTree, 4)
	must(t, e.conn.Close())
	expectGone(t, pids)
}

func TestCustomTimeoutEndsTheCommand(t *testing.T) {
	t.Parallel()
	e := startPlugin(t)
	_, err := e.client.Create(t.Context(), &rpc.CreateRequest{
		Urn: urn, Properties: e.check(props{"create": "exec sleep 300"}), Timeout: 1,
	})
	expectError(t, err, "interrupted", "custom timeout")
}

func TestBackgroundProcessSurvivesACommandThatSucceeded(t *testing.T) {
	t.Parallel()
	e := startPlugin(t)
	file := filepath.Join(t.TempDir(), "pid")
	e.create(props{"create": "sleep 300 >/dev/null 2>&1 & echo $! > " + file})
	content, err := os.ReadFile(file)
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	must(t, err)
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	time.Sleep(50 * time.Millisecond)
	if gone(pid) {
		t.Error("a daemon that the command had started was killed")
	}
}
