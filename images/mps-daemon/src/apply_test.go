package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestLimitsThatTheDaemonDoesNotTakeAreAFailure(t *testing.T) {
	t.Parallel()
	n := newNode(t, "stubborn")
	n.runUntilReady() // the environment's percentage holds already
	n.expect(1, []string{"apply", "--active-thread-percentage=20", "--pinned-device-memory-limit=0"},
		`did not take an active thread percentage of 20 for the default: it reads back "50.0"`)
	newNode(t, "stubborn-memory", "PINNED_DEVICE_MEMORY_LIMIT=2G").expect(1, []string{"run"},
		`did not take a pinned memory limit of 2G on device 0 for the default: it reads back ""`)
}

type scopeStatus struct {
	PID                     int
	ActiveThreadPercentage  float64
	PinnedDeviceMemoryLimit map[string]string
	Clients                 []client
}

func applied(t *testing.T, text string) (all []scopeStatus) {
	t.Helper()
	var got struct {
		Defaults scopeStatus
		Servers  []scopeStatus
	}
	must(t, json.Unmarshal([]byte(text), &got))
	if strings.Count(text, "\n") != 1 {
		t.Fatalf("not one line: %s", text)
	}
	return append([]scopeStatus{got.Defaults}, got.Servers...)
}

func TestApplyChangesTheDefaultsAndEveryServer(t *testing.T) {
	t.Parallel()
	for servers, pids := range map[string][]int{"": {0}, "servers=590": {0, 590}, "servers=590+984": {0, 590, 984}} {
		n := newNode(t, servers, "PINNED_DEVICE_MEMORY_LIMIT=8G")
		n.runUntilReady()
		for _, c := range []struct {
			args       []string
			percentage float64
			memory     map[string]string
		}{
			{[]string{"25", "1500M", ""}, 25, map[string]string{"0": "1G"}},
			{[]string{"33.37", "4G", fakeUUID(0) + "=512M"}, 33.4, map[string]string{"0": "512M"}},
			{[]string{"100", "0", ""}, 100, map[string]string{}},
			{[]string{"100", "", ""}, 100, map[string]string{}},
		} {
			all := applied(t, n.expect(0, []string{"apply", "--active-thread-percentage", c.args[0],
				"--pinned-device-memory-limit", c.args[1], "--per-device-pinned-memory-limit", c.args[2]}))
			for i, got := range all {
				if len(all) != len(pids) || got.PID != pids[i] || got.ActiveThreadPercentage != c.percentage ||
					fmt.Sprint(got.PinnedDeviceMemoryLimit) != fmt.Sprint(c.memory) {
					t.Fatalf("%s %v: got %+v", servers, c.args, all)
				}
				users := []client{{600 + i - 1, fakeUUID(0), "python3", ""}, {0, fakeUUID(0), "?", ""}, {0, fakeUUID(0), "?", ""}}
				if got.PID != 0 && !slices.Equal(got.Clients, users) {
					t.Fatalf("got %+v", got.Clients)
				}
			}
		}
	}
}

func TestServerThatEndsMeanwhileIsPassedOver(t *testing.T) {
	t.Parallel()
	n := newNode(t, "servers=590+984,gone=590")
	n.runUntilReady()
	all := applied(t, n.expect(0, []string{"apply", "--active-thread-percentage", "10", "--pinned-device-memory-limit", "0"}))
	if len(all) != 2 || all[1].PID != 984 || all[1].ActiveThreadPercentage != 10 {
		t.Fatalf("got %+v", all)
	}
}

func TestApplyBeforeReadinessIsRefused(t *testing.T) {
	t.Parallel()
	newNode(t, "").expect(1, []string{"apply", "--active-thread-percentage", "10", "--pinned-device-memory-limit", "0"}, "is not ready")
}
