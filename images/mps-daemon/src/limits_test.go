package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestPercentageIsADecimalFrom1To100(t *testing.T) {
	for text, good := range map[string]bool{
		"1": true, "50": true, "33.3": true, "100": true, "100.0": true, "1.0": true,
		"": false, "0": false, "0.9": false, "100.1": false, "101": false, "-5": false, "+5": false, "5e1": false,
		"0x10": false, "NaN": false, "Inf": false, " 50": false, "50%": false, "50.": false, ".5": false, "5\n0": false,
	} {
		if got, err := parsePercentage(text); (err == nil) != good || good && string(got) != text {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
}

func TestMemoryIsAWholeNumberWithMOrG(t *testing.T) {
	for text, good := range map[string]bool{
		"8192M": true, "8G": true, "1M": true, "0": true, "": true,
		"8192": false, "0M": false, "8g": false, "8Gi": false, "8GB": false, "1.5G": false, "-1G": false, "G": false,
		"1048576K": false, "9999999999G": false, "1G\n": false, "1 G": false,
	} {
		if _, err := parseMemory(text); (err == nil) != good {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestOverridesNameDevicesOnce(t *testing.T) {
	got, err := parseOverrides("0=4096M, GPU-ab-1=2G,2=0")
	if want := []override{{"0", "4096M"}, {"GPU-ab-1", "2G"}, {"2", ""}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, %v", got, err)
	}
	if got, err := parseOverrides(""); err != nil || got != nil {
		t.Fatalf("got %v, %v", got, err)
	}
	for text, message := range map[string]string{
		"4096M":     `"4096M" is not DEVICE=LIMIT`,
		"0=":        `"0=" is not DEVICE=LIMIT`,
		"0=1G,":     `"" is not DEVICE=LIMIT`,
		"gpu-1=1G":  `"gpu-1=1G" is not DEVICE=LIMIT`,
		"0=1G,0=2G": `"0=2G" names the device 0 a second time; give each device one limit`,
		"0=1":       `device 0: "1" is not a whole number with M (MiB) or G (GiB)`,
		"0 1=1G":    `"0 1=1G" is not DEVICE=LIMIT`,
	} {
		if _, err := parseOverrides(text); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestReadBackIsComparedAsFarAsTheDaemonTells(t *testing.T) {
	for _, c := range []struct {
		memory memory
		answer string
		same   bool
	}{
		{"1500M", "1G", true}, {"8192M", "8G", true}, {"8G", "8G", true}, {"512M", "512M", true},
		{"", "", true}, {"1500M", "2G", false}, {"512M", "511M", false}, {"512M", "1G", false}, {"8G", "", false},
		{"", "8G", false}, {"8G", "junk", false}, {"8G", "8", false},
	} {
		if c.memory.matches(c.answer) != c.same {
			t.Errorf("%q and %q: want %v", c.memory, c.answer, c.same)
		}
	}
	for _, c := range []struct {
		percentage percentage
		answer     string
		same       bool
	}{
		{"50", "50.0", true}, {"33.37", "33.4", true}, {"12.55", "12.6", true}, {"100", "100.0", true},
		{"50", "100.0", false}, {"50", "", false}, {"50", "50.2", false},
	} {
		if c.percentage.matches(c.answer) != c.same {
			t.Errorf("%q and %q: want %v", c.percentage, c.answer, c.same)
		}
	}
}

var two = []device{{0, "GPU-a", "x"}, {1, "GPU-b", "x"}}

func TestOverridesWinAndThoseForOtherNodesAreToldApart(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits limits
		want   []memory
		others []string
	}{
		{"default for all", limits{memory: "8G"}, []memory{"8G", "8G"}, nil},
		{"ordinal", limits{memory: "8G", perDevice: []override{{"1", "2G"}}}, []memory{"8G", "2G"}, nil},
		{"UUID", limits{memory: "8G", perDevice: []override{{"GPU-a", "2G"}}}, []memory{"2G", "8G"}, nil},
		{"lifted for one", limits{memory: "8G", perDevice: []override{{"0", ""}}}, []memory{"", "8G"}, nil},
		{"no default", limits{perDevice: []override{{"1", "2G"}}}, []memory{"", "2G"}, nil},
		{"elsewhere", limits{memory: "8G", perDevice: []override{{"2", "2G"}, {"GPU-c", "1G"}}}, []memory{"8G", "8G"}, []string{"2", "GPU-c"}},
	} {
		chosen, others, err := c.limits.forDevices(two)
		var got []memory
		for _, d := range chosen {
			got = append(got, d.memory)
		}
		if err != nil || !reflect.DeepEqual(got, c.want) || !reflect.DeepEqual(others, c.others) {
			t.Errorf("%s: got %v, %v, %v", c.name, got, others, err)
		}
	}
}

func TestOneDeviceByTwoNamesIsRefused(t *testing.T) {
	_, _, err := limits{perDevice: []override{{"0", "1G"}, {"GPU-a", "2G"}}}.forDevices(two)
	if err == nil || !strings.Contains(err.Error(), "0 and GPU-a are the same GPU") {
		t.Fatalf("got %v", err)
	}
}

func environment(pairs ...string) func(string) string {
	values := map[string]string{
		"CUDA_MPS_PIPE_DIRECTORY": "/run/pipe", "CUDA_MPS_LOG_DIRECTORY": "/run/log", "ACTIVE_THREAD_PERCENTAGE": "50",
	}
	for i := 0; i < len(pairs); i += 2 {
		values[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return values[name] }
}

func TestEnvironmentHasDefaults(t *testing.T) {
	got, err := settingsFromEnvironment(environment("PINNED_DEVICE_MEMORY_LIMIT", "8192M"))
	want := settings{"/run/pipe", "/run/log", limits{percentage: "50", memory: "8192M"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestEveryProblemOfTheEnvironmentIsToldAtOnce(t *testing.T) {
	_, err := settingsFromEnvironment(environment(
		"CUDA_MPS_PIPE_DIRECTORY", "/"+strings.Repeat("p", 88), "CUDA_MPS_LOG_DIRECTORY", "",
		"ACTIVE_THREAD_PERCENTAGE", "0", "PINNED_DEVICE_MEMORY_LIMIT", "8192", "PER_DEVICE_PINNED_MEMORY_LIMIT", "0=x,1",
	))
	var got []string
	for _, problem := range errorList(err) {
		got = append(got, problem.Error())
	}
	want := []string{
		`CUDA_MPS_PIPE_DIRECTORY: "/` + strings.Repeat("p", 88) + `" has 89 bytes, but sockets in it leave it 88; set a shorter path`,
		`CUDA_MPS_LOG_DIRECTORY: "" is not an absolute path; set one like /run/nvidia/mps`,
		`ACTIVE_THREAD_PERCENTAGE: "0" is not a percentage from 1 to 100; set one like 50 or 12.5, or 100 for no limit`,
		`PINNED_DEVICE_MEMORY_LIMIT: "8192" is not a whole number with M (MiB) or G (GiB); set one like 8192M, or 0 for no limit`,
		`PER_DEVICE_PINNED_MEMORY_LIMIT: device 0: "x" is not a whole number with M (MiB) or G (GiB); set one like 8192M, or 0 for no limit`,
		`PER_DEVICE_PINNED_MEMORY_LIMIT: "1" is not DEVICE=LIMIT with a GPU's ordinal or UUID; set one like 0=4096M or GPU-...=2G`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
