package main

import (
	"errors"
	"flag"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// limits is the set of limits that a daemon is to hold its clients to.
type limits struct {
	percentage percentage
	memory     memory // of every device that perDevice does not name
	perDevice  []override
	announced  bool // clients that wait for these limits go on once they are set
}

// percentage is a share of a GPU's threads. 100 is no limit.
type percentage string

// memory is an amount that one client may have of one device. The zero value is no limit.
type memory string

// override is the memory limit of one device.
type override struct {
	device string // ordinal or UUID
	memory memory
}

var (
	decimal     = regexp.MustCompile(`^[0-9]{1,3}(\.[0-9]+)?$`)
	memoryText  = regexp.MustCompile(`^([1-9][0-9]{0,8})([MG])$`)
	deviceNames = regexp.MustCompile(`^([0-9]{1,4}|(GPU|MIG)-[0-9A-Za-z/-]+)$`)
)

// parseLimits reports every problem at once. Names are what the values came from.
func parseLimits(values, names [3]string) (limits, error) {
	var parsed limits
	var first, second, third error
	parsed.percentage, first = parsePercentage(values[0])
	parsed.memory, second = parseMemory(values[1])
	parsed.perDevice, third = parseOverrides(values[2])
	problems := []error{}
	for i, err := range []error{first, second, third} {
		for _, problem := range errorList(err) {
			problems = append(problems, fmt.Errorf("%s: %w", names[i], problem))
		}
	}
	return parsed, errors.Join(problems...)
}

// parsePercentage takes a decimal number from 1 to 100.
func parsePercentage(text string) (percentage, error) {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || !decimal.MatchString(text) || value < 1 || value > 100 {
		return "", fmt.Errorf("%q is not a percentage from 1 to 100; set one like 50 or 12.5, or 100 for no limit", text)
	}
	return percentage(text), nil
}

// parseMemory takes only whole numbers with M or G. The daemon takes anything and says nothing: it ignores a number
// without a unit, and takes "2048MB" and "2Gi" for what they begin with.
func parseMemory(text string) (memory, error) {
	if text == "" || text == "0" {
		return "", nil
	}
	if !memoryText.MatchString(text) {
		return "", fmt.Errorf("%q is not a whole number with M (MiB) or G (GiB); set one like 8192M, or 0 for no limit", text)
	}
	return memory(text), nil
}

// parseOverrides takes DEVICE=LIMIT, one or more, with commas between them.
func parseOverrides(text string) ([]override, error) {
	var parsed []override
	var problems []error
	named := map[string]bool{}
	for _, item := range strings.Split(text, ",") {
		if text == "" {
			break
		}
		device, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		if !deviceNames.MatchString(device) || value == "" {
			problems = append(problems, fmt.Errorf("%q is not DEVICE=LIMIT with a GPU's ordinal or UUID; set one like 0=4096M or GPU-...=2G", item))
			continue
		}
		if named[device] {
			problems = append(problems, fmt.Errorf("%q names the device %s a second time; give each device one limit", item, device))
			continue
		}
		named[device] = true
		limit, err := parseMemory(value)
		if err != nil {
			problems = append(problems, fmt.Errorf("device %s: %w", device, err))
		}
		parsed = append(parsed, override{device, limit})
	}
	return parsed, errors.Join(problems...)
}

var (
	optionNames   = [3]string{"active-thread-percentage", "pinned-device-memory-limit", "per-device-pinned-memory-limit"}
	variableNames = [3]string{"ACTIVE_THREAD_PERCENTAGE", "PINNED_DEVICE_MEMORY_LIMIT", "PER_DEVICE_PINNED_MEMORY_LIMIT"}
)

// announceOption is apply's option by which clients that wait for these limits go on.
const announceOption = "announce"

// defineLimits gives apply its options.
func defineLimits(options *flag.FlagSet) {
	for _, name := range optionNames {
		options.String(name, "", "")
	}
	options.Bool(announceOption, false, "")
}

// limitsFromOptions reads the limits from apply's options. The first two are required: what is left out would otherwise
// lift a limit unasked.
func limitsFromOptions(options *flag.FlagSet) (limits, error) {
	given := map[string]bool{}
	options.Visit(func(option *flag.Flag) { given[option.Name] = true })
	var values, names [3]string
	for i, name := range optionNames {
		values[i], names[i] = options.Lookup(name).Value.String(), "--"+name
		if i < 2 && !given[name] {
			return limits{}, fmt.Errorf("apply: --%s is missing; it sets every limit, so say this one too", name)
		}
	}
	parsed, err := parseLimits(values, names)
	parsed.announced = options.Lookup(announceOption).Value.String() == "true"
	return parsed, err
}

// deviceLimit is the memory limit that one device is to have. The daemon keeps it by its own ordinal, but CUDA applies
// it by the client's (measured): a client that sees one GPU of several has the limit of device 0, whichever it sees.
type deviceLimit struct {
	device device
	memory memory
}

// name is what a client that waits for these limits calls them.
func (l limits) name() string { return string(l.percentage) + "/" + l.memory.argument() }

// forDevices returns the limit of each device. Overrides for GPUs that are not here come back as others: a daemon
// runs on every node, and the GPUs that limits name by UUID are on one of them.
func (l limits) forDevices(devices []device) (chosen []deviceLimit, others []string, err error) {
	taken := map[string]string{} // UUID -> the override's name for it
	limit := map[string]memory{}
	for _, o := range l.perDevice {
		found := false
		for _, d := range devices {
			if o.device != d.UUID && o.device != strconv.Itoa(d.Ordinal) {
				continue
			}
			found = true
			if before, twice := taken[d.UUID]; twice {
				return nil, nil, fmt.Errorf("per-device limits: %s and %s are the same GPU; give each device one limit", before, o.device)
			}
			taken[d.UUID], limit[d.UUID] = o.device, o.memory
		}
		if !found {
			others = append(others, o.device)
		}
	}
	for _, d := range devices {
		m := l.memory
		if _, own := taken[d.UUID]; own {
			m = limit[d.UUID]
		}
		chosen = append(chosen, deviceLimit{d, m})
	}
	return chosen, others, nil
}

// needDevices is true if there is a limit that only a known device can be given.
func (l limits) needDevices() bool {
	return l.memory != "" || len(l.perDevice) > 0
}

// matches is true if the daemon reads the percentage back, which has one decimal then.
func (p percentage) matches(answer string) bool {
	wanted, _ := strconv.ParseFloat(string(p), 64)
	got, err := strconv.ParseFloat(answer, 64)
	return err == nil && wanted-got < 0.1 && got-wanted < 0.1
}

var readBack = regexp.MustCompile(`^([0-9]+)([MG])$`)

// matches is true if the daemon reads the limit back: below 1 GiB the limit itself, from there on whole GiB, rounded
// down ("1500M" reads back as "1G", though clients get 1500 MiB), so no finer than the unit of the answer. No limit is
// silence.
func (m memory) matches(answer string) bool {
	if m == "" || answer == "" {
		return string(m) == answer
	}
	parts := readBack.FindStringSubmatch(answer)
	if parts == nil {
		return false
	}
	got, _ := strconv.ParseUint(parts[1], 10, 64)
	if parts[2] == "G" {
		return m.mebibytes()>>10 == got
	}
	return m.mebibytes() == got
}

// mebibytes is the limit in MiB; 0 is no limit.
func (m memory) mebibytes() uint64 {
	parts := memoryText.FindStringSubmatch(string(m))
	if parts == nil {
		return 0
	}
	value, _ := strconv.ParseUint(parts[1], 10, 64)
	if parts[2] == "G" {
		value <<= 10
	}
	return value
}

// argument is the limit as the daemon's commands take it: 0 lifts a limit.
func (m memory) argument() string {
	if m == "" {
		return "0"
	}
	return string(m)
}
