package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestRunSetsTheLimitsAndTellsThatItIsReady(t *testing.T) {
	t.Parallel()
	n := newNode(t, "devices=2", "PINNED_DEVICE_MEMORY_LIMIT=8192M", "PER_DEVICE_PINNED_MEMORY_LIMIT=1=1500M,GPU-elsewhere=1G",
		"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=1G")
	n.expect(1, []string{"ready"}, "is not ready: its limits are not set yet")
	r := n.runUntilReady()
	expectTexts(t, r.said.String(), "active thread percentage 50, pinned memory limit of device 0 ("+fakeUUID(0)+") 8192M, ",
		"device 1 ("+fakeUUID(1)+") 1500M\n", "no GPU here is called GPU-elsewhere; its limit is for another node",
		"Starting control daemon using socket "+n.pipe("control")+" log "+filepath.Join(n.folder, "log")+" memory \n")
	var got, want any
	must(t, json.Unmarshal([]byte(n.expect(0, []string{"status"})), &got))
	must(t, json.Unmarshal([]byte(`{"defaults": {"activeThreadPercentage": 50.0, "pinnedDeviceMemoryLimit": {"0": "8G", "1": "1G"}},
		"servers": [], "devices": [{"ordinal": 0, "uuid": "`+fakeUUID(0)+`", "name": "NVIDIA H100 80GB HBM3"},
		{"ordinal": 1, "uuid": "`+fakeUUID(1)+`", "name": "NVIDIA H100 80GB HBM3"}]}`), &want))
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %v\nwant %v", got, want)
	}
}

func TestDirectoriesAreUsableByEveryUser(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	must(t, os.Mkdir(n.pipe(""), 0o700))
	n.runUntilReady()
	for _, name := range []string{"pipe", "log"} {
		info, err := os.Stat(filepath.Join(n.folder, name))
		must(t, err)
		if info.Mode() != 0o755|os.ModeDir {
			t.Errorf("%s: %v", name, info.Mode())
		}
	}
}

func TestDirectoryThatCannotBeMadeIsToldByItsVariable(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	must(t, os.WriteFile(filepath.Join(n.folder, "log"), nil, 0o600))
	n.expect(1, []string{"run"}, "CUDA_MPS_LOG_DIRECTORY: mkdir "+n.folder+"/log: not a directory; mount a volume there")
}

func TestSecondDaemonIsRefusedAndTheFirstStaysReady(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	n.runUntilReady()
	host, _ := os.Hostname()
	n.expect(1, []string{"run"}, "CUDA_MPS_PIPE_DIRECTORY: another MPS daemon (in "+host+") holds \""+n.pipe("")+"\" already",
		"delete that daemon, or give this one a directory of its own")
	n.expect(0, []string{"ready"})
}

func TestDaemonOfAnotherOwnerIsRefused(t *testing.T) {
	t.Parallel()
	for _, fake := range []string{"", "deaf"} { // one that answers, one that only holds NVIDIA's lock
		n := newNode(t, fake)
		must(t, os.Mkdir(n.pipe(""), 0o755))
		other := exec.Command(filepath.Join(n.folder, "bin", controlProgram), "-f", "-multiuser-server")
		other.Env = n.env
		must(t, other.Start())
		t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
		eventually(t, "the other daemon", func() bool {
			connection, err := net.Dial("unixpacket", n.pipe("control"))
			if err == nil {
				connection.Close()
			}
			return err == nil
		})
		n.expect(1, []string{"run"}, "another MPS daemon holds \""+n.pipe("")+"\" already")
	}
}

func TestSignalsEndTheDaemonAndAreNoFailure(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fake   string
		signal syscall.Signal
	}{{"", syscall.SIGTERM}, {"", syscall.SIGINT}, {"ignore-term", syscall.SIGTERM}} {
		n := newNode(t, c.fake)
		r := n.runUntilReady()
		must(t, r.cmd.Process.Signal(c.signal))
		r.ends(0, "ending ("+c.signal.String()+" signal received)")
		n.expect(1, []string{"ready"}, "is not ready")
		n.expect(1, []string{"status"}, "the MPS daemon does not answer at "+n.pipe("")+": Cannot find MPS control daemon process")
	}
}

func TestSignalWhileTheDaemonStartsEndsIt(t *testing.T) {
	t.Parallel()
	n := newNode(t, "deaf")
	r := n.run()
	r.until("Starting control daemon")
	must(t, r.cmd.Process.Signal(syscall.SIGTERM))
	r.ends(0)
}

func TestEndOfTheDaemonIsAFailureWithItsStatus(t *testing.T) {
	t.Parallel()
	n := newNode(t, "orphan")
	r := n.runUntilReady()
	server := number(t, r.said.String(), `server (\d+)`)
	cmd := exec.Command(filepath.Join(n.folder, "bin", controlProgram))
	cmd.Env, cmd.Stdin = n.env, strings.NewReader("exit_now\n")
	_ = cmd.Run()
	r.ends(1, "nvidia-cuda-mps-control ended (exit status 4); what it said is above")
	if _, parent := stateAndParent(server); parent != 0 {
		t.Fatalf("its server %d is still there", server)
	}
	n.expect(1, []string{"ready"}, "is not ready")
}

func TestDaemonThatEndsAtOnceIsAFailureWithItsWords(t *testing.T) {
	t.Parallel()
	newNode(t, "exit").expect(1, []string{"run"}, "no GPU that I like", "nvidia-cuda-mps-control ended (exit status 3)")
}

func number(t *testing.T, text, pattern string) int {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("%s is not in:\n%s", pattern, text)
	}
	value, err := strconv.Atoi(found[1])
	must(t, err)
	return value
}

func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	n := newNode(t, "orphan")
	r := n.runUntilReady()
	server := number(t, r.said.String(), `server (\d+)`)
	if _, parent := stateAndParent(server); parent != r.cmd.Process.Pid {
		t.Fatalf("the orphan's parent is %d", parent)
	}
	must(t, syscall.Kill(server, syscall.SIGKILL))
	eventually(t, "the orphan's end", func() bool { _, parent := stateAndParent(server); return parent == 0 })
	n.expect(0, []string{"ready"})
}

// daemonOf is the PID of the control daemon below a running mps-daemon.
func daemonOf(t *testing.T, r *running) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	must(t, err)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if _, parent := stateAndParent(pid); parent == r.cmd.Process.Pid {
			return pid
		}
	}
	t.Fatal("no control daemon")
	return 0
}

func TestWhatAKilledOneLeftIsNoObstacle(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	first := n.runUntilReady()
	daemon := daemonOf(t, first)
	must(t, first.cmd.Process.Kill())
	<-first.done
	eventually(t, "the daemon's end with its owner", func() bool { state, _ := stateAndParent(daemon); return state == "" || state == "Z" })
	for _, name := range []string{"control", "control_lock", lockName, markerName} {
		if _, err := os.Lstat(n.pipe(name)); err != nil {
			t.Fatal(err)
		}
	}
	n.expect(1, []string{"ready"}, "the MPS daemon does not answer at "+n.pipe(""))
	n.runUntilReady()
}

func TestDaemonThatNeverAnswersIsGivenUp(t *testing.T) {
	t.Parallel()
	n := newNode(t, "deaf", "TEST_START=1500ms")
	n.expect(1, []string{"run"}, "the MPS daemon does not answer at "+n.pipe("")+": 1.5s after its start")
	n = newNode(t, "hang", "TEST_CALL=2s") // answers, but not when it is asked for its devices
	n.expect(1, []string{"run"}, "the MPS daemon does not answer at "+n.pipe("")+": device_query took longer than 2s")
}

func TestMemoryLimitWithoutADeviceIsAFailure(t *testing.T) {
	t.Parallel()
	newNode(t, "devices=0", "PINNED_DEVICE_MEMORY_LIMIT=2G").expect(1, []string{"run"}, "lists no GPU, so no memory limit can be set")
	newNode(t, "devices=0").runUntilReady()
}

func TestDriverThatDoesNotKnowACommandIsTold(t *testing.T) {
	t.Parallel()
	newNode(t, "old", "TEST_START=1s").expect(1, []string{"run"}, "does not answer")
}
