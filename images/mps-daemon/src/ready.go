package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// markerName is the file in the pipe directory that says that a daemon has its limits, and which ones its owner
// announced.
const markerName = "mps-daemon.ready"

// wantedName is the variable by which a client's container says which limits it is to wait for.
const wantedName = "MPS_DAEMON_LIMITS"

// ready is the command ready: an error says why a daemon cannot be used yet.
func ready(daemon control, within bounds) error {
	if !hasMarker(daemon.pipe) {
		return notReady(daemon.pipe)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), within.ready,
		fmt.Errorf("the MPS daemon does not answer at %s: no answer in %s", daemon.pipe, within.ready))
	defer cancel()
	_, err := daemon.ask(ctx, defaults.words("get", threads)...)
	return err
}

// hasMarker is true if the command run has set the limits of the directory's daemon.
func hasMarker(pipe string) bool {
	_, err := os.Stat(filepath.Join(pipe, markerName))
	return err == nil
}

// announce makes the marker, or changes what it says: whole or not at all, since clients read it at any time.
func announce(pipe string, l limits) error {
	partial, err := os.CreateTemp(pipe, markerName)
	if err != nil {
		return err
	}
	defer os.Remove(partial.Name())
	// For clients of every user.
	err = errors.Join(writeAtStart(partial, l.name()), partial.Chmod(0o644), partial.Close())
	if err != nil {
		return err
	}
	return os.Rename(partial.Name(), filepath.Join(pipe, markerName))
}

// awaited returns why the announced limits are not those that a client waits for, or nil; none are "".
//
// A limit that somebody changes without announcing it holds nobody up.
func awaited(pipe, wanted string) error {
	if wanted == "" {
		return nil
	}
	content, err := os.ReadFile(filepath.Join(pipe, markerName))
	if errors.Is(err, os.ErrNotExist) {
		return notReady(pipe)
	}
	if announced := strings.TrimSpace(string(content)); err == nil && announced != wanted {
		return fmt.Errorf("the limits of the MPS daemon at %s are %s, and %s is %s; they are about to be set, or the "+
			"daemon's are another stack's", pipe, announced, wantedName, wanted)
	}
	return err
}

// notReady is the error that the directory's daemon has no limits yet.
func notReady(pipe string) error {
	return fmt.Errorf("the MPS daemon at %s is not ready: its limits are not set yet (no %s); see the log of mps-daemon run", pipe, markerName)
}

// waitFor is the command wait: it waits for the daemon, and then is the program, if there is one: the same process,
// with the same environment.
//
// However such a container starts again, it waits; an init container would not. It may be started again alone, so the
// kubelet keeps its log and how it ended.
func waitFor(pipe string, words []string, notes io.Writer) error {
	// Also what the image sets, which no policy on pods sees.
	if err := clientProblems(os.Getenv); err != nil {
		return misuse{err}
	}
	if err := wait(pipe, os.Getenv(wantedName), notes); err != nil || len(words) == 0 {
		return err
	}
	program, err := exec.LookPath(words[0])
	if err != nil {
		return fmt.Errorf("wait: cannot start %q, PATH is %q: %w", words[0], os.Getenv("PATH"), err)
	}
	return fmt.Errorf("wait: cannot start %s: %w", program, syscall.Exec(program, words, os.Environ()))
}

// wait returns when a daemon with its limits set listens, and these are the wanted ones. CUDA runs without MPS, and so
// without limits, where no daemon listens. It looks as CUDA does, at the socket, so it needs neither a GPU nor NVIDIA's
// programs. It has no bound: its pod shows that it waits, and its log for what.
func wait(pipe, wanted string, notes io.Writer) error {
	signalled, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	lastText := ""
	for {
		err := listens(pipe)
		if err == nil {
			err = awaited(pipe, wanted)
		}
		if err == nil {
			return nil
		}
		if text := err.Error(); text != lastText {
			lastText = text
			fmt.Fprintln(notes, "mps-daemon: waiting:", text)
		}
		select {
		case <-signalled.Done():
			return errors.New("ended before the daemon was ready") // not success: the client would start
		case <-time.After(pause): // between two looks; the pod's own bounds hold
		}
	}
}

// listens returns why no daemon with its limits set accepts connections, or nil.
func listens(pipe string) error {
	if !hasMarker(pipe) {
		return notReady(pipe)
	}
	connection, err := net.DialTimeout("unixpacket", filepath.Join(pipe, "control"), time.Second) // NVIDIA's kind of socket
	if err != nil {
		return fmt.Errorf("the MPS daemon does not answer at %s: %w", pipe, err)
	}
	return connection.Close()
}
