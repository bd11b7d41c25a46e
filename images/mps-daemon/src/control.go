package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

const controlProgram = "nvidia-cuda-mps-control"

// control is a client of a daemon through NVIDIA's interface: its program, with the command on standard input.
type control struct {
	program string
	pipe    string
	call    time.Duration
}

// errServerGone is the error that a server ended between two commands.
var errServerGone = errors.New("the server has ended")

var serverGone = regexp.MustCompile(`^Server [0-9]+ not found$`)

// ask returns a command's answer without space around it. The daemon answers wrong values with silence or with what
// it keeps, and exit code 0: who sets something has to read it back.
func (c control) ask(ctx context.Context, words ...string) (string, error) {
	text := strings.Join(words, " ")
	bounded, cancel := context.WithTimeout(ctx, c.call)
	defer cancel()
	cmd := exec.CommandContext(bounded, c.program)
	cmd.Env = append(os.Environ(), "CUDA_MPS_PIPE_DIRECTORY="+c.pipe)
	cmd.Stdin = strings.NewReader(text + "\n")
	var answer, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &answer, &complaint
	cmd.WaitDelay = 250 * time.Millisecond // something below it may keep the pipes open
	err := children.run(cmd)
	reply := strings.TrimSpace(answer.String())
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case bounded.Err() != nil:
		return "", fmt.Errorf("the MPS daemon does not answer at %s: %s took longer than %s", c.pipe, text, c.call)
	case err != nil:
		reason := strings.TrimSpace(reply + " " + strings.TrimSpace(complaint.String()))
		return "", fmt.Errorf("the MPS daemon does not answer at %s: %s (%w)", c.pipe, reason, err)
	case strings.HasPrefix(reply, "Unknown command "):
		return "", fmt.Errorf("the MPS daemon at %s does not know %s; this driver is older than mps-daemon needs", c.pipe, words[0])
	case serverGone.MatchString(reply):
		return "", errServerGone
	}
	return reply, nil
}

// scope is a set of clients that a limit holds for: those of servers to come, or of one server.
type scope struct{ pid string }

// defaults is the scope of servers to come.
var defaults = scope{}

// words is the command that gets or sets a limit of the scope.
func (s scope) words(verb, what string, arguments ...string) []string {
	if s == defaults {
		return append([]string{verb + "_default_" + what}, arguments...)
	}
	return append([]string{verb + "_" + what, s.pid}, arguments...)
}

func (s scope) String() string {
	if s == defaults {
		return "the default"
	}
	return "server " + s.pid
}

const (
	threads      = "active_thread_percentage"
	pinnedMemory = "device_pinned_mem_limit"
)

// set brings a scope to its limits and reads them back.
func (c control) set(ctx context.Context, s scope, wanted percentage, memories []deviceLimit) error {
	if _, err := c.ask(ctx, s.words("set", threads, string(wanted))...); err != nil {
		return err
	}
	got, err := c.ask(ctx, s.words("get", threads)...)
	if err != nil {
		return err
	}
	if !wanted.matches(got) {
		return fmt.Errorf("the MPS daemon did not take an active thread percentage of %s for %s: it reads back %q", wanted, s, got)
	}
	for _, limit := range memories {
		if err := c.setMemory(ctx, s, limit); err != nil {
			return err
		}
	}
	return nil
}

// setMemory brings one device of a scope to its limit and reads it back.
func (c control) setMemory(ctx context.Context, s scope, limit deviceLimit) error {
	ordinal := fmt.Sprint(limit.device.Ordinal)
	got, err := c.ask(ctx, s.words("get", pinnedMemory, ordinal)...)
	if err != nil {
		return err
	}
	if limit.memory == "" && got == "" {
		return nil // there is none to lift
	}
	if _, err := c.ask(ctx, s.words("set", pinnedMemory, ordinal, limit.memory.argument())...); err != nil {
		return err
	}
	if got, err = c.ask(ctx, s.words("get", pinnedMemory, ordinal)...); err != nil {
		return err
	}
	if !limit.memory.matches(got) {
		return fmt.Errorf("the MPS daemon did not take a pinned memory limit of %s on device %s for %s: it reads back %q",
			limit.memory.argument(), ordinal, s, got)
	}
	return nil
}
