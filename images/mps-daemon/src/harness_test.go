package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// node is a place for one daemon: directories, and NVIDIA's program on PATH.
type node struct {
	t      *testing.T
	folder string
	env    []string
}

func newNode(t *testing.T, fake string, env ...string) *node {
	t.Helper()
	folder, err := os.MkdirTemp("", "mps") // short: a socket's path has to be
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(folder) })
	self, err := os.Executable()
	must(t, err)
	must(t, os.Mkdir(filepath.Join(folder, "bin"), 0o755))
	must(t, os.Symlink(self, filepath.Join(folder, "bin", controlProgram)))
	return &node{t, folder, append([]string{
		"TEST_PROGRAM=mps-daemon", "FAKE=" + fake, "PATH=" + filepath.Join(folder, "bin") + ":/usr/bin:/bin",
		"CUDA_MPS_PIPE_DIRECTORY=" + filepath.Join(folder, "pipe"), "CUDA_MPS_LOG_DIRECTORY=" + filepath.Join(folder, "log"),
		"ACTIVE_THREAD_PERCENTAGE=50",
		"GORACE=atexit_sleep_ms=0", // the race detector's second at every program's end adds up
	}, env...)}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (n *node) pipe(name string) string { return filepath.Join(n.folder, "pipe", name) }

func (n *node) command(args ...string) *exec.Cmd {
	self, err := os.Executable()
	must(n.t, err)
	cmd := exec.Command(self, args...)
	cmd.Env = n.env
	return cmd
}

// call runs a command to its end.
func (n *node) call(args ...string) (code int, out, said string) {
	n.t.Helper()
	cmd := n.command(args...)
	var output, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &messages
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), output.String(), messages.String()
}

// expect runs a command that has to end with a code and to say some texts.
func (n *node) expect(code int, args []string, texts ...string) string {
	n.t.Helper()
	got, out, said := n.call(args...)
	if got != code {
		n.t.Fatalf("%v: exit code %d instead of %d\n%s%s", args, got, code, out, said)
	}
	expectTexts(n.t, out+said, texts...)
	return out
}

func expectTexts(t *testing.T, said string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(said, text) {
			t.Fatalf("%q is not in:\n%s", text, said)
		}
	}
}

// running is an mps-daemon that goes on.
type running struct {
	t    *testing.T
	cmd  *exec.Cmd
	said *output
	done chan struct{}
}

type output struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.text.String()
}

func (n *node) run() *running { return n.start("run") }

func (n *node) start(args ...string) *running {
	n.t.Helper()
	r := &running{n.t, n.command(args...), &output{}, make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = r.said, r.said
	r.cmd.WaitDelay = 100 * time.Millisecond
	must(n.t, r.cmd.Start())
	go func() { _ = r.cmd.Wait(); close(r.done) }()
	n.t.Cleanup(func() { _ = r.cmd.Process.Kill(); <-r.done })
	return r
}

func (n *node) runUntilReady() *running {
	n.t.Helper()
	r := n.run()
	r.until("ready: ")
	eventually(n.t, "readiness", func() bool { code, _, _ := n.call("ready"); return code == 0 })
	return r
}

func (r *running) until(text string) {
	r.t.Helper()
	eventually(r.t, text+" in\n"+r.said.String(), func() bool { return strings.Contains(r.said.String(), text) })
}

func (r *running) ends(code int, texts ...string) {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatalf("it still runs\n%s", r.said)
	}
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		r.t.Fatalf("exit code %d instead of %d\n%s", got, code, r.said)
	}
	expectTexts(r.t, r.said.String(), texts...)
}

const patience = 40 * time.Second // for slow machines and the race detector

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("waited %s for %s", patience, what)
}
