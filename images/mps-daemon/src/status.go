package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// limitsInForce is the set of limits of a scope, in the daemon's own words: memory by ordinal, only where there is a
// limit.
type limitsInForce struct {
	Threads json.Number       `json:"activeThreadPercentage"`
	Memory  map[string]string `json:"pinnedDeviceMemoryLimit"`
}

// server is one MPS server with its limits and clients.
type server struct {
	PID    int    `json:"pid"`
	Status string `json:"status"`
	limitsInForce
	Clients []client `json:"clients"`
}

// status is the answer of the command status.
type status struct {
	Defaults limitsInForce `json:"defaults"`
	Servers  []server      `json:"servers"`
	Devices  []device      `json:"devices"`
}

// status asks the daemon for all limits, servers, clients and devices.
func (c control) status(ctx context.Context) (status, error) {
	current := status{Servers: []server{}}
	answer, err := c.ask(ctx, "device_query")
	if err != nil {
		return current, err
	}
	current.Devices = parseDevices(answer)
	if current.Defaults, err = c.limitsInForce(ctx, defaults, current.Devices); err != nil {
		return current, err
	}
	listed, err := c.ask(ctx, "get_server_list")
	if err != nil {
		return current, err
	}
	if answer, err = c.ask(ctx, "ps"); err != nil {
		return current, err
	}
	clients := parseClients(answer, current.Devices)
	for _, s := range parseServers(listed) {
		one, err := c.server(ctx, s, current.Devices, clients)
		if errors.Is(err, errServerGone) {
			continue
		}
		if err != nil {
			return current, err
		}
		current.Servers = append(current.Servers, one)
	}
	return current, nil
}

// server asks the daemon for one server's state, limits and clients.
func (c control) server(ctx context.Context, s scope, devices []device, clients []client) (server, error) {
	var one server
	one.PID, _ = strconv.Atoi(s.pid)
	var err error
	if one.Status, err = c.ask(ctx, "get_server_status", s.pid); err != nil {
		return one, err
	}
	if one.limitsInForce, err = c.limitsInForce(ctx, s, devices); err != nil {
		return one, err
	}
	answer, err := c.ask(ctx, "get_device_client_list", s.pid)
	if err != nil {
		return one, err
	}
	clients = slices.DeleteFunc(slices.Clone(clients), func(user client) bool { return user.server != s.pid })
	one.Clients = mergeClients(clients, parseUses(answer), devices)
	return one, nil
}

// limitsInForce asks the daemon for the limits of a scope.
func (c control) limitsInForce(ctx context.Context, s scope, devices []device) (limitsInForce, error) {
	inForce := limitsInForce{Memory: map[string]string{}}
	answer, err := c.ask(ctx, s.words("get", threads)...)
	if err != nil {
		return inForce, err
	}
	if _, err := strconv.ParseFloat(answer, 64); err != nil {
		return inForce, fmt.Errorf("the MPS daemon at %s answers %q where the percentage of %s was asked for", c.pipe, answer, s)
	}
	inForce.Threads = json.Number(answer)
	for _, d := range devices {
		ordinal := strconv.Itoa(d.Ordinal)
		limit, err := c.ask(ctx, s.words("get", pinnedMemory, ordinal)...)
		if err != nil {
			return inForce, err
		}
		if limit != "" {
			inForce.Memory[ordinal] = limit
		}
	}
	return inForce, nil
}
