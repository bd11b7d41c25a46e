package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// apply changes the limits of a daemon that is ready. Clients that connect from now on get the new ones; those that
// are connected keep theirs.
func apply(ctx context.Context, daemon control, wanted limits, out, notes io.Writer) error {
	if !hasMarker(daemon.pipe) {
		return notReady(daemon.pipe) // else `run` could set its own limits over these
	}
	memories, err := daemon.choose(ctx, wanted, notes)
	if err != nil {
		return err
	}
	// The defaults first: a server that starts meanwhile has them already.
	if err := daemon.set(ctx, defaults, wanted.percentage, memories); err != nil {
		return err
	}
	listed, err := daemon.ask(ctx, "get_server_list")
	if err != nil {
		return err
	}
	for _, s := range parseServers(listed) {
		if err := daemon.set(ctx, s, wanted.percentage, memories); err != nil && !errors.Is(err, errServerGone) {
			return err
		}
	}
	if wanted.announced {
		if err := announce(daemon.pipe, wanted); err != nil {
			return err
		}
	}
	return printStatus(ctx, daemon, out)
}

// choose says what each of the daemon's devices is to have.
func (c control) choose(ctx context.Context, wanted limits, notes io.Writer) ([]deviceLimit, error) {
	answer, err := c.ask(ctx, "device_query")
	if err != nil {
		return nil, err
	}
	devices := parseDevices(answer)
	if len(devices) == 0 && wanted.needDevices() {
		return nil, fmt.Errorf("the MPS daemon at %s lists no GPU, so no memory limit can be set; its claim gave it none", c.pipe)
	}
	memories, others, err := wanted.forDevices(devices)
	if len(others) > 0 {
		fmt.Fprintf(notes, "mps-daemon: no GPU here is called %s; its limit is for another node\n", strings.Join(others, " or "))
	}
	return memories, err
}
