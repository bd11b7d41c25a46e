// runc-bounded is runc for a machine whose capability bounding set lacks some capabilities.
//
// A privileged container asks for every capability, and runc fails ("unable to apply caps: operation
// not permitted") when the machine cannot grant one of them. Docker Engine 23 and newer ask for no
// more than the bounding set holds; this wrapper does the same for older ones. It removes what cannot
// be granted from the bundle's config.json and from the process file of an exec, then becomes runc.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// In the order of the kernel's numbers (linux/capability.h).
var names = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// missing returns the capabilities that a bounding set, as /proc shows it, cannot grant.
func missing(status string) (map[string]bool, error) {
	for line := range strings.Lines(status) {
		value, found := strings.CutPrefix(line, "CapBnd:")
		if !found {
			continue
		}
		bounding, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("CapBnd: %w", err)
		}
		lacking := map[string]bool{}
		for number, name := range names {
			if bounding&(1<<number) == 0 {
				lacking["CAP_"+name] = true
			}
		}
		return lacking, nil
	}
	return nil, fmt.Errorf("no CapBnd line in /proc/self/status")
}

// drop removes the lacking capabilities from every list below a "capabilities" key.
func drop(value any, lacking map[string]bool) {
	object, ok := value.(map[string]any)
	if !ok {
		return
	}
	if sets, ok := object["capabilities"].(map[string]any); ok {
		for name, set := range sets {
			list, ok := set.([]any)
			if !ok {
				continue
			}
			kept := []any{}
			for _, capability := range list {
				if text, _ := capability.(string); !lacking[text] {
					kept = append(kept, capability)
				}
			}
			sets[name] = kept
		}
	}
	drop(object["process"], lacking)
}

func rewrite(path string, lacking map[string]bool) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber() // limits are 64-bit integers, which a float would round
	var spec any
	if err := decoder.Decode(&spec); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	drop(spec, lacking)
	changed, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(path, changed, 0o600)
}

// files returns the specifications that a runc command line names.
func files(args []string) []string {
	var found []string
	for i, arg := range args {
		name, value, inline := strings.Cut(arg, "=")
		if !inline && i+1 < len(args) {
			value = args[i+1]
		}
		switch name {
		case "--bundle", "-b":
			found = append(found, filepath.Join(value, "config.json"))
		case "--process", "-p":
			found = append(found, value)
		}
	}
	return found
}

func run() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	lacking, err := missing(string(status))
	if err != nil {
		return err
	}
	for _, path := range files(os.Args[1:]) {
		if err := rewrite(path, lacking); err != nil {
			return err
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	return syscall.Exec(runc, append([]string{"runc"}, os.Args[1:]...), os.Environ())
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "runc-bounded:", err)
		os.Exit(1)
	}
}
