package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
)

const (
	// graceTime is how long an interrupted command may clean up. The engine
	// kills a plugin 5 s after it has asked it to stop, and then nobody would
	// be left to kill the command.
	graceTime = 3 * time.Second
	// drainTime is how long to wait for the pipes of a killed command, which a
	// process that left its group may hold open.
	drainTime = 500 * time.Millisecond
	// maxErrorOutput bounds the output quoted in an error.
	maxErrorOutput = 32 << 10
)

// execute runs one command to its end and returns what it leaves behind,
// logging as it goes. The end is when its output is closed: a background
// process that keeps it open is waited for, as in a shell's command substitution.
//
// It fails if the command cannot be started, exits non-zero or is interrupted
// through ctx.
func execute(ctx context.Context, command string, opts Options, previous *Outputs) (Outputs, error) {
	argv := append(append([]string{}, opts.interpreter()...), command)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = opts.dir()
	cmd.Env = environment(opts, previous)
	if opts.Stdin != nil {
		cmd.Stdin = strings.NewReader(*opts.Stdin)
	}
	stdout, stderr := &capture{}, &capture{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// What a command prints while it is being interrupted is worth seeing too.
	logger := p.GetLogger(context.WithoutCancel(ctx))
	// Both streams have the same severity: the engine takes a logged error for
	// a failed update, and many tools report their progress on stderr.
	if opts.logs(LogStdout) {
		stdout.log = logger.Info
	}
	if opts.logs(LogStderr) {
		stderr.log = logger.Info
	}

	err := runGroup(ctx, cmd)
	if !errors.Is(err, errAbandoned) { // else the writers may still be at work
		stdout.flush()
		stderr.flush()
	}
	if err != nil {
		return Outputs{}, failure(err, stdout.output(), stderr.output())
	}
	outputs := Outputs{Stdout: stdout.output(), Stderr: stderr.output()}
	return outputs, outputs.collect(opts)
}

// environment is the plugin's own, then the resource's, then the previous
// output; as upstream has it, a stream that was empty has no variable.
func environment(opts Options, previous *Outputs) []string {
	env := os.Environ()
	for name, value := range opts.Environment {
		env = append(env, name+"="+value)
	}
	if previous != nil && opts.withPrevious() {
		if previous.Stdout != "" {
			env = append(env, "PULUMI_COMMAND_STDOUT="+previous.Stdout)
		}
		if previous.Stderr != "" {
			env = append(env, "PULUMI_COMMAND_STDERR="+previous.Stderr)
		}
	}
	return env
}

// errAbandoned says that something still holds a killed command's output.
var errAbandoned = errors.New("its output is still held open by a process that left its process group")

// runGroup runs cmd as the leader of a process group of its own, so that an
// interrupt reaches whatever it has started.
func runGroup(ctx context.Context, cmd *exec.Cmd) error {
	if err := ctx.Err(); err != nil {
		return interrupted(ctx)
	}
	// The kernel ties Pdeathsig, the last resort for a plugin that was killed,
	// to the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return startError(cmd, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}

	group := -cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGINT)
	// Even if the leader is gone, its children may be cleaning up: a shell's
	// background jobs do not get SIGINT at all.
	for end := time.Now().Add(graceTime); time.Now().Before(end) && syscall.Kill(group, 0) == nil; {
		time.Sleep(20 * time.Millisecond)
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	select {
	case <-done:
		return interrupted(ctx)
	case <-time.After(drainTime):
		return fmt.Errorf("%w; %w", interrupted(ctx), errAbandoned)
	}
}

func interrupted(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("the command was interrupted: its custom timeout is over")
	}
	return errors.New("the command was interrupted: the operation was cancelled")
}

// startError says what is wrong where the kernel's own words mislead: they blame
// the interpreter for a missing directory.
func startError(cmd *exec.Cmd, err error) error {
	if cmd.Dir != "" {
		if info, statErr := os.Stat(cmd.Dir); statErr != nil {
			return fmt.Errorf("the command could not be started in its dir: %w", statErr)
		} else if !info.IsDir() {
			return fmt.Errorf("the command could not be started: dir %q is not a directory", cmd.Dir)
		}
	}
	if errors.Is(err, syscall.E2BIG) {
		return fmt.Errorf("%w: one argument or variable may have 128 KiB; pass the data through stdin, or set "+
			"addPreviousOutputInEnv to false if the previous output is too long", err)
	}
	return fmt.Errorf("the command could not be started: %w", err)
}

// failure says how a command ended and, as upstream does, what it said. A
// command without a word on stderr often has its reason on stdout.
func failure(err error, stdout, stderr string) error {
	name, text := "stderr", stderr
	if text == "" {
		name, text = "stdout", stdout
	}
	if text == "" {
		return err
	}
	if len(text) > maxErrorOutput {
		text = "..." + strings.ToValidUTF8(text[len(text)-maxErrorOutput:], replacement)
	}
	return fmt.Errorf("%w\n%s:\n%s", err, name, text)
}
