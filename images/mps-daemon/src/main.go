// mps-daemon owns one NVIDIA MPS control daemon: it starts it, sets its limits, checks that they hold,
// tells when it is ready, changes the limits while it runs, and ends with it.
//
// It is made to be the only process of a container without a shell, as root without any capability
// and on a read-only root filesystem. NVIDIA's programs come from the driver that the container's
// claim mounts; it does not choose GPUs and does not set their compute mode.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

var version = "unknown" // set by the linker

const usage = `mps-daemon owns one NVIDIA MPS control daemon.

  mps-daemon run      start the daemon, set its limits, stay until SIGTERM, SIGINT or the daemon's end
  mps-daemon apply    change the limits of the running daemon and of its servers; prints the status
                        --active-thread-percentage P           1 to 100, decimals allowed; 100 is no limit
                        --pinned-device-memory-limit M         as 8192M or 8G; 0 or "" is no limit
                        --per-device-pinned-memory-limit L     as 0=4096M,GPU-...=0; these win over M
                        --announce                             clients whose MPS_DAEMON_LIMITS is P/M go on
  mps-daemon status   print what holds and who uses it, as one JSON object on one line
  mps-daemon ready    exit 0 if the limits are set and the daemon answers, else 1 with the reason
  mps-daemon wait -- PROGRAM ARG...
                      for a client's container: become the program when the daemon is ready; needs no GPU. Refuses an
                      environment that would lift the daemon's limits. Without a program it just ends then. With
                      MPS_DAEMON_LIMITS=P/M it waits until the daemon was started with these limits, or until they
                      were announced
  mps-daemon install FOLDER
                      for its init container: put this program into a folder that such a container has as well
  mps-daemon --help | --version

Environment: CUDA_MPS_PIPE_DIRECTORY for every command; for run also
  CUDA_MPS_LOG_DIRECTORY
  ACTIVE_THREAD_PERCENTAGE          as P above
  PINNED_DEVICE_MEMORY_LIMIT        as M above; may be empty
  PER_DEVICE_PINNED_MEMORY_LIMIT    as L above; may be empty

Exit codes: 0 done (run: ended by a signal), 1 failed, 2 wrong arguments or environment.
`

// bounds is the set of times that things may take.
type bounds struct {
	start time.Duration // until a daemon that was started answers
	stop  time.Duration // until a daemon that was asked to end has ended
	call  time.Duration // one command through the pipe
	ready time.Duration // the whole of `ready`, with room for what it has to kill below a probe's 3 s
}

var limitsOfTime = bounds{start: 20 * time.Second, stop: 5 * time.Second, call: 10 * time.Second, ready: 2500 * time.Millisecond}

// misuse is an error in arguments or environment, not of the daemon.
type misuse struct{ error }

func (m misuse) Unwrap() error { return m.error }

func main() {
	os.Exit(command(os.Args[1:], os.Stdout, os.Stderr, limitsOfTime))
}

// command runs one command and returns its exit code.
func command(args []string, out, notes io.Writer, within bounds) int {
	err := dispatch(args, out, notes, within)
	if err == nil {
		return 0
	}
	for _, problem := range errorList(err) {
		fmt.Fprintln(notes, "mps-daemon:", problem)
	}
	if errors.As(err, &misuse{}) {
		return 2
	}
	return 1
}

// dispatch calls the command that the first argument names.
func dispatch(args []string, out, notes io.Writer, within bounds) error {
	if len(args) == 0 {
		return misuse{errors.New("no command; mps-daemon --help lists them")}
	}
	name, rest := args[0], args[1:]
	switch name {
	case "--help", "-h", "help":
		_, err := io.WriteString(out, usage)
		return err
	case "--version":
		_, err := fmt.Fprintln(out, "mps-daemon", version)
		return err
	case "run", "apply", "status", "ready", "wait", "install":
	default:
		return misuse{fmt.Errorf("%q is no command; mps-daemon --help lists them", name)}
	}
	wanted, words, err := parseOptions(name, rest)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(out, usage)
		return err
	}
	if err != nil {
		return misuse{err}
	}
	if name == "install" {
		return install(words, notes)
	}
	if name == "run" {
		settings, err := settingsFromEnvironment(os.Getenv)
		if err != nil {
			return misuse{err}
		}
		return run(settings, within, out, notes)
	}
	pipe, err := pipeDirectory(os.Getenv)
	if err != nil {
		return misuse{err}
	}
	if name == "wait" {
		return waitFor(pipe, words, notes)
	}
	return talk(name, pipe, wanted, within, out, notes)
}

// parseOptions returns the limits that apply is given, and the words of wait and install; no other command takes words.
func parseOptions(name string, args []string) (limits, []string, error) {
	options := flag.NewFlagSet(name, flag.ContinueOnError)
	options.SetOutput(io.Discard)
	if name == "apply" {
		defineLimits(options)
	}
	if err := options.Parse(args); errors.Is(err, flag.ErrHelp) {
		return limits{}, nil, err
	} else if err != nil {
		return limits{}, nil, fmt.Errorf("%s: %w; mps-daemon --help lists the options", name, err)
	}
	if name == "wait" || name == "install" {
		return limits{}, options.Args(), nil
	}
	if options.NArg() > 0 {
		return limits{}, nil, fmt.Errorf("%s: %q is one word too many; mps-daemon --help lists the options", name, options.Arg(0))
	}
	if name == "apply" {
		wanted, err := limitsFromOptions(options)
		return wanted, nil, err
	}
	return limits{}, nil, nil
}

// talk runs the commands that ask a daemon that another mps-daemon owns.
func talk(name, pipe string, wanted limits, within bounds, out, notes io.Writer) error {
	program, err := findControl()
	if err != nil {
		return err
	}
	daemon := control{program: program, pipe: pipe, call: within.call}
	switch name {
	case "ready":
		return ready(daemon, within)
	case "apply":
		return apply(context.Background(), daemon, wanted, out, notes)
	default:
		return printStatus(context.Background(), daemon, out)
	}
}

// findControl returns the path of NVIDIA's program. The driver's root is mounted by the claim, so its absence is the
// claim's.
func findControl() (string, error) {
	program, err := exec.LookPath(controlProgram)
	if err != nil {
		return "", fmt.Errorf("%s is not on PATH (%s): this container sees no MPS programs; either its claim gave it "+
			"no GPU, or the node's driver root has none: install the driver's MPS programs there", controlProgram, os.Getenv("PATH"))
	}
	return program, nil
}

// printStatus writes the daemon's status as one line of JSON.
func printStatus(ctx context.Context, daemon control, out io.Writer) error {
	current, err := daemon.status(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(current)
}

// errorList returns the single errors of a joined one, and none for nil.
func errorList(err error) []error {
	if err == nil {
		return nil
	}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return joined.Unwrap()
	}
	return []error{err}
}
