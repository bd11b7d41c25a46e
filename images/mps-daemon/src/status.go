package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// held are the limits of a scope, in the daemon's own words: memory by ordinal, only where there is a limit.
type held struct {
	Threads json.Number       `json:"activeThreadPercentage"`
	Memory  map[string]string `json:"pinnedDeviceMemoryLimit"`
}

type server struct {
	PID    int    `json:"pid"`
	Status string `json:"status"`
	held
	Clients []client `json:"clients"`
}

type status struct {
	Defaults held     `json:"defaults"`
	Servers  []server `json:"servers"`
	Devices  []device `json:"devices"`
}

func (c control) status(ctx context.Context) (status, error) {
	found := status{Servers: []server{}}
	answer, err := c.ask(ctx, "device_query")
	if err != nil {
		return found, err
	}
	found.Devices = parseDevices(answer)
	if found.Defaults, err = c.held(ctx, defaults, found.Devices); err != nil {
		return found, err
	}
	listed, err := c.ask(ctx, "get_server_list")
	if err != nil {
		return found, err
	}
	if answer, err = c.ask(ctx, "ps"); err != nil {
		return found, err
	}
	clients := parseClients(answer, found.Devices)
	for _, s := range parseServers(listed) {
		one, err := c.server(ctx, s, found.Devices, clients)
		if errors.Is(err, errServerGone) {
			continue
		}
		if err != nil {
			return found, err
		}
		found.Servers = append(found.Servers, one)
	}
	return found, nil
}

func (c control) server(ctx context.Context, s scope, devices []device, clients []client) (server, error) {
	var one server
	one.PID, _ = strconv.Atoi(s.pid)
	var err error
	if one.Status, err = c.ask(ctx, "get_server_status", s.pid); err != nil {
		return one, err
	}
	if one.held, err = c.held(ctx, s, devices); err != nil {
		return one, err
	}
	answer, err := c.ask(ctx, "get_device_client_list", s.pid)
	if err != nil {
		return one, err
	}
	own := slices.DeleteFunc(slices.Clone(clients), func(user client) bool { return user.server != s.pid })
	one.Clients = together(own, parseUses(answer), devices)
	return one, nil
}

func (c control) held(ctx context.Context, s scope, devices []device) (held, error) {
	found := held{Memory: map[string]string{}}
	answer, err := c.ask(ctx, s.words("get", threads)...)
	if err != nil {
		return found, err
	}
	if _, err := strconv.ParseFloat(answer, 64); err != nil {
		return found, fmt.Errorf("the MPS daemon at %s answers %q where the percentage of %s was asked for", c.pipe, answer, s)
	}
	found.Threads = json.Number(answer)
	for _, d := range devices {
		ordinal := strconv.Itoa(d.Ordinal)
		limit, err := c.ask(ctx, s.words("get", pinnedMemory, ordinal)...)
		if err != nil {
			return found, err
		}
		if limit != "" {
			found.Memory[ordinal] = limit
		}
	}
	return found, nil
}
