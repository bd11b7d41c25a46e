package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	lockName       = "mps-daemon.lock"
	alreadyRunning = "An instance of this daemon is already running" // NVIDIA's words
	pause          = 100 * time.Millisecond
)

// run is the command run: it owns a daemon from its start to its end.
func run(s settings, within bounds, out, notes io.Writer) error {
	signalled, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	program, err := findControl()
	if err != nil {
		return err
	}
	if err := s.makeDirectories(); err != nil {
		return err
	}
	lock, err := takeLock(s.pipe)
	if err != nil {
		return err
	}
	defer lock.Close()
	marker := filepath.Join(s.pipe, markerName)
	if err := os.Remove(marker); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	daemon := control{program: program, pipe: s.pipe, call: within.call}
	// A daemon that nobody locked for would take the limits that are meant for ours.
	if _, err := (control{program, s.pipe, time.Second}).ask(signalled, defaults.words("get", threads)...); err == nil {
		return occupied(s.pipe, "")
	}
	children.reapInherited()
	child, err := startChild(signalled, daemon, s, out, notes)
	if err != nil {
		return err
	}
	defer children.endInherited()
	defer child.end(within.stop)
	defer os.Remove(marker)

	text, err := child.prepare(daemon, s.limits, within, notes)
	if err == nil {
		err = announce(s.pipe, s.limits)
	}
	if err == nil {
		fmt.Fprintln(notes, "mps-daemon: ready:", text)
		<-child.ctx.Done()
		err = context.Cause(child.ctx)
	}
	if signalled.Err() != nil {
		fmt.Fprintf(notes, "mps-daemon: ending (%v)\n", context.Cause(signalled))
		return nil
	}
	return err
}

// takeLock keeps a second mps-daemon out of the directory for as long as this process lives, however it ends.
func takeLock(pipe string) (*os.File, error) {
	// For its owner alone: whoever can open it could hold it against us.
	file, err := os.OpenFile(filepath.Join(pipe, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("CUDA_MPS_PIPE_DIRECTORY: %w; mount a volume there that this user owns and may write", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(file, 256))
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, occupied(pipe, strings.TrimSpace(string(holder)))
		}
		return nil, fmt.Errorf("%s: flock: %w", file.Name(), err)
	}
	name, _ := os.Hostname() // a pod's name
	if err := errors.Join(file.Truncate(0), writeAtStart(file, name)); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// writeAtStart replaces the beginning of a file by one line.
func writeAtStart(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text+"\n"), 0)
	return err
}

// occupied is the error that another daemon has the directory; holder names its pod, or is empty.
func occupied(pipe, holder string) error {
	who := "another MPS daemon"
	if holder != "" {
		who += " (in " + holder + ")"
	}
	return fmt.Errorf("CUDA_MPS_PIPE_DIRECTORY: %s holds %q already, and a directory has one daemon; "+
		"delete that daemon, or give this one a directory of its own", who, pipe)
}

// child is the control daemon's process. Its context ends with it, and with a signal to this process.
type child struct {
	cmd   *exec.Cmd
	ctx   context.Context
	ended chan struct{}
}

// startChild starts the control daemon with the directories and the percentage of its settings.
func startChild(signalled context.Context, daemon control, s settings, out, notes io.Writer) (*child, error) {
	ctx, cancel := context.WithCancelCause(signalled)
	c := &child{exec.Command(daemon.program, "-f", "-multiuser-server"), ctx, make(chan struct{})}
	beginning := &head{}
	c.cmd.Stdout, c.cmd.Stderr = io.MultiWriter(out, beginning), io.MultiWriter(notes, beginning)
	c.cmd.WaitDelay = time.Second // its servers have its output open too
	c.cmd.Env = append(withoutMemoryLimit(os.Environ()), "CUDA_MPS_PIPE_DIRECTORY="+s.pipe, "CUDA_MPS_LOG_DIRECTORY="+s.log,
		"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="+string(s.limits.percentage))
	// No daemon without its owner. The kernel ties this to the thread that forked, so that stays. In a group of its own
	// the daemon gets a terminal's Ctrl-C from its owner only.
	runtime.LockOSThread()
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := children.start(c.cmd); err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%s cannot be started: %w; the driver's files may be incomplete in this container", daemon.program, err)
	}
	go func() {
		_ = children.wait(c.cmd)
		cause := fmt.Errorf("%s ended (%s); what it said is above", controlProgram, c.cmd.ProcessState)
		if beginning.has(alreadyRunning) {
			cause = occupied(s.pipe, "")
		}
		close(c.ended)
		cancel(cause)
	}()
	return c, nil
}

// withoutMemoryLimit is an environment without a variable that the daemon does not enforce; it would only mislead who
// reads it.
func withoutMemoryLimit(environment []string) []string {
	kept := environment[:0:0]
	for _, entry := range environment {
		if !strings.HasPrefix(entry, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=") {
			kept = append(kept, entry)
		}
	}
	return kept
}

// prepare waits until the daemon answers, sets the limits and says what holds.
func (c *child) prepare(daemon control, wanted limits, within bounds, notes io.Writer) (string, error) {
	if err := c.untilItAnswers(daemon, within.start); err != nil {
		return "", err
	}
	memories, err := daemon.choose(c.ctx, wanted, notes)
	if err != nil {
		return "", err
	}
	if err := daemon.set(c.ctx, defaults, wanted.percentage, memories); err != nil {
		return "", err
	}
	text := fmt.Sprintf("pipe directory %s, active thread percentage %s", daemon.pipe, wanted.percentage)
	for _, m := range memories {
		text += fmt.Sprintf(", pinned memory limit of device %d (%s) %s", m.device.Ordinal, m.device.UUID, m.memory.argument())
	}
	return text, nil
}

// untilItAnswers waits until the daemon answers a command, or for a bounded time.
func (c *child) untilItAnswers(daemon control, within time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(c.ctx, within,
		fmt.Errorf("the MPS daemon does not answer at %s: %s after its start; what it said is above", daemon.pipe, within))
	defer cancel()
	for {
		if _, err := daemon.ask(ctx, defaults.words("get", threads)...); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause): // between two looks at a condition that is bounded above
		}
	}
}

// end asks the daemon to end, and kills it if it has not after some time.
func (c *child) end(within time.Duration) {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-c.ended:
	case <-time.After(within):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}

// head is the beginning of an output, where a daemon says why it cannot start.
type head struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

const headBytes = 4096

func (h *head) Write(p []byte) (int, error) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.buffer.Write(p[:min(len(p), headBytes-h.buffer.Len())])
	return len(p), nil
}

func (h *head) has(text string) bool {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return strings.Contains(h.buffer.String(), text)
}
