package main

import (
	"reflect"
	"testing"
)

// As an H100 with driver 580.159.04 answered.
const (
	measuredDevices = `Default
Device Ordinal  PCI IDs        UUID                                      Name                              Attributes
0               0000:00.06.00  GPU-3162c830-50d3-002a-0265-11a013bc5c54  NVIDIA H100 80GB HBM3             N/A

Server 518
Device Ordinal  PCI IDs        UUID                                      Name                              Attributes
0               0000:00.06.00  GPU-3162c830-50d3-002a-0265-11a013bc5c54  NVIDIA H100 80GB HBM3             N/A`
	measuredClients = `PID       ID        SERVER         DEVICE                    NAMESPACE      COMMAND        
609       4         590            GPU-99be8e08-892a-b332    4026531836     python3        
615       5         590            GPU-99be8e08-892a-b332    4026531836     python3        
0         6         590            GPU-99be8e08-892a-b332    ?              ?              `
)

func TestDevicesAreTheRowsOfTheFirstTable(t *testing.T) {
	const h100 = "GPU-3162c830-50d3-002a-0265-11a013bc5c54"
	for answer, want := range map[string][]device{
		measuredDevices: {{0, h100, "NVIDIA H100 80GB HBM3"}},
		"":              {},
		"Default\n":     {},
		"0  0000:00.06.00  GPU-1  A name that has no attributes after it":        {{0, "GPU-1", "A name that has no attributes after it"}},
		"0  0000:00.06.00  MIG-1  H100 MIG 1g.10gb  a, b\n1  0:1  GPU-2  B  N/A": {{0, "MIG-1", "H100 MIG 1g.10gb"}, {1, "GPU-2", "B"}},
	} {
		if got := parseDevices(answer); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v", answer, got)
		}
	}
}

func TestClientsHaveTheirDevicesWholeUUID(t *testing.T) {
	const whole = "GPU-99be8e08-892a-b332-2940-abef2c93cd81"
	got := parseClients(measuredClients, []device{{0, "GPU-1", ""}, {1, whole, ""}})
	if want := []client{{609, whole, "python3", "590"}, {615, whole, "python3", "590"}, {0, whole, "?", "590"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	// Two that fit: the short one is all that is known.
	got = parseClients(measuredClients, []device{{0, whole, ""}, {1, whole[:len(whole)-1] + "2", ""}})
	if got[0].Device != "GPU-99be8e08-892a-b332" {
		t.Errorf("got %v", got)
	}
	for _, answer := range []string{"", "Server not found"} {
		if got := parseClients(answer, nil); len(got) != 0 {
			t.Errorf("%q: got %v", answer, got)
		}
	}
}

func TestClientsOfOtherNamespacesAreCountedByTheirContexts(t *testing.T) {
	devices := []device{{0, "GPU-a", ""}, {1, "GPU-b", ""}}
	listed := []client{{0, "GPU-a", "?", "59"}, {609, "GPU-b", "python3", "59"}, {700, "N/A", "bash", "59"}}
	uses := parseUses("[0] 00:00.0, NVIDIA H100 80GB HBM3\n0.1\n0.1\n[1] 00:01.0, NVIDIA H100 80GB HBM3\n609.1\n609.2\n800.1")
	got := mergeClients(listed, uses, devices)
	want := []client{{0, "GPU-a", "?", ""}, {0, "GPU-a", "?", ""}, {609, "GPU-b", "python3", ""}, {800, "GPU-b", "?", ""}, {700, "N/A", "bash", "59"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if got := mergeClients(nil, parseUses(""), devices); got == nil || len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestServersAreAPIDALine(t *testing.T) {
	if got := parseServers("590\n984\n"); !reflect.DeepEqual(got, []scope{{"590"}, {"984"}}) {
		t.Errorf("got %v", got)
	}
	if got := parseServers(""); got != nil {
		t.Errorf("got %v", got)
	}
}
