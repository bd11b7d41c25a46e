package main

import (
	"regexp"
	"strconv"
	"strings"
)

// device is a GPU that the daemon's clients can use.
type device struct {
	Ordinal int    `json:"ordinal"`
	UUID    string `json:"uuid"`
	Name    string `json:"name"`
}

// client is a process that uses a server, as the daemon sees it: one of another PID namespace, as in a pod of its own,
// has the PID 0 and the command "?" (measured).
type client struct {
	PID     int    `json:"pid"`
	Device  string `json:"device"`
	Command string `json:"command"`
	server  string
}

// Ordinal, PCI address, UUID, name; the attributes after the name stand at least two spaces off.
var deviceRow = regexp.MustCompile(`^(\d+)\s+(\S+)\s+((?:GPU|MIG)-\S+)\s+(.+?)(?:\s{2,}\S.*)?$`)

// parseDevices reads device_query: a title, a header and a row a device. A device that a later table names again is
// the same one.
func parseDevices(answer string) []device {
	devices := []device{}
	seen := map[int]bool{}
	for line := range strings.Lines(answer) {
		row := deviceRow.FindStringSubmatch(strings.TrimSpace(line))
		if row == nil {
			continue
		}
		ordinal, err := strconv.Atoi(row[1])
		if err != nil || seen[ordinal] {
			continue
		}
		seen[ordinal] = true
		devices = append(devices, device{ordinal, row[3], row[4]})
	}
	return devices
}

// PID, ID, server, device, namespace, command.
var clientRow = regexp.MustCompile(`^(\d+)\s+\d+\s+(\d+)\s+(\S+)\s+\S+\s+(.*)$`)

// parseClients reads ps, which cuts a UUID short; it is completed from the devices where only one fits. Without a
// server the answer is "Server not found", without a client nothing.
func parseClients(answer string, devices []device) []client {
	clients := []client{}
	for line := range strings.Lines(answer) {
		row := clientRow.FindStringSubmatch(strings.TrimSpace(line))
		if row == nil {
			continue
		}
		pid, err := strconv.Atoi(row[1])
		if err != nil {
			continue
		}
		clients = append(clients, client{pid, completeUUID(row[3], devices), row[4], row[2]})
	}
	return clients
}

// use is one client's context on a device.
type use struct{ pid, ordinal int }

var (
	deviceHeading = regexp.MustCompile(`^\[(\d+)\] `)
	contextRow    = regexp.MustCompile(`^(\d+)\.\d+$`)
)

// parseUses reads get_device_client_list: a heading a device, then a line a context.
func parseUses(answer string) []use {
	var uses []use
	ordinal := 0
	for line := range strings.Lines(answer) {
		line = strings.TrimSpace(line)
		if heading := deviceHeading.FindStringSubmatch(line); heading != nil {
			ordinal, _ = strconv.Atoi(heading[1])
		} else if row := contextRow.FindStringSubmatch(line); row != nil {
			pid, _ := strconv.Atoi(row[1])
			uses = append(uses, use{pid, ordinal})
		}
	}
	return uses
}

// mergeClients returns a server's clients from both of the daemon's lists. ps has one row for all clients of other PID
// namespaces (measured), since all have the PID 0, so contexts are counted where there are some, and ps gives the
// commands.
func mergeClients(listed []client, uses []use, devices []device) []client {
	clients := []client{}
	commands, seen := map[int]string{}, map[[2]any]bool{}
	for _, c := range listed {
		commands[c.PID] = c.Command
	}
	uuids := map[int]string{}
	for _, d := range devices {
		uuids[d.Ordinal] = d.UUID
	}
	for _, u := range uses {
		uuid, command := uuids[u.ordinal], commands[u.pid]
		if command == "" {
			command = "?"
		}
		key := [2]any{u.pid, uuid}
		if u.pid == 0 || !seen[key] {
			clients = append(clients, client{PID: u.pid, Device: uuid, Command: command})
		}
		seen[key] = true
	}
	for _, c := range listed { // what has no context yet
		if !seen[[2]any{c.PID, c.Device}] {
			clients = append(clients, c)
		}
	}
	return clients
}

// completeUUID returns the one device's UUID that begins with what ps has, or that itself where none or several do.
func completeUUID(uuid string, devices []device) string {
	whole := uuid
	for _, d := range devices {
		if strings.HasPrefix(d.UUID, uuid) {
			if whole != uuid {
				return uuid
			}
			whole = d.UUID
		}
	}
	return whole
}

// parseServers reads get_server_list: a PID a line.
func parseServers(answer string) []scope {
	var servers []scope
	for _, word := range strings.Fields(answer) {
		if _, err := strconv.Atoi(word); err == nil {
			servers = append(servers, scope{word})
		}
	}
	return servers
}
