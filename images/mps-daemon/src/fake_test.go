package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain makes the test's binary three programs: the tests, mps-daemon with the bounds that a test wants, and
// NVIDIA's program as it was measured on an H100 with driver 580.159.04, by the name it is called by.
func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == controlProgram:
		os.Exit(fakeControl(os.Args[1:]))
	case os.Getenv("TEST_PROGRAM") == "mps-daemon":
		within := limitsOfTime
		within.stop = 500 * time.Millisecond
		for name, bound := range map[string]*time.Duration{"TEST_START": &within.start, "TEST_CALL": &within.call} {
			if text := os.Getenv(name); text != "" {
				*bound, _ = time.ParseDuration(text)
			}
		}
		os.Exit(command(os.Args[1:], os.Stdout, os.Stderr, within))
	}
	os.Exit(m.Run())
}

// fakeControl obeys $FAKE, words that change what it does:
// hang, deaf, stubborn, ignore-term, exit, orphan, old, devices=N, servers=PID+PID, gone=PID.
func fakeControl(args []string) int {
	fake := newFake()
	socket := filepath.Join(os.Getenv("CUDA_MPS_PIPE_DIRECTORY"), "control")
	if slices.Equal(args, []string{"-f", "-multiuser-server"}) {
		return fake.serve(socket)
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		connection, err := net.Dial("unixpacket", socket)
		if err != nil {
			fmt.Fprintln(os.Stderr, "Cannot find MPS control daemon process")
			return 1
		}
		fmt.Fprintln(connection, lines.Text())
		_, _ = io.Copy(os.Stdout, connection)
	}
	return 0
}

type fakeScope struct {
	percentage string
	memory     map[string]string
}

type fake struct {
	mutex   sync.Mutex
	words   []string
	devices int
	servers []string
	scopes  map[string]*fakeScope // "" are the defaults
}

func newFake() *fake {
	f := &fake{words: strings.Split(os.Getenv("FAKE"), ","), devices: 1, scopes: map[string]*fakeScope{}}
	percentage := os.Getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")
	if percentage == "" {
		percentage = "100"
	}
	if n := f.value("devices"); n != "" {
		f.devices, _ = strconv.Atoi(n)
	}
	f.servers = strings.FieldsFunc(f.value("servers"), func(r rune) bool { return r == '+' })
	for _, name := range append([]string{""}, f.servers...) {
		f.scopes[name] = &fakeScope{oneDecimal(percentage), map[string]string{}}
	}
	return f
}

func (f *fake) has(word string) bool { return slices.Contains(f.words, word) }

func (f *fake) value(name string) string {
	for _, word := range f.words {
		if value, found := strings.CutPrefix(word, name+"="); found {
			return value
		}
	}
	return ""
}

func (f *fake) serve(socket string) int {
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(socket), "control_lock"), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil || syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		fmt.Println(alreadyRunning)
		return 1
	}
	if f.has("ignore-term") {
		signal.Ignore(syscall.SIGTERM)
	}
	if f.has("exit") {
		fmt.Println("no GPU that I like")
		return 3
	}
	fmt.Println("Starting control daemon using socket", socket, "log", os.Getenv("CUDA_MPS_LOG_DIRECTORY"),
		"memory", os.Getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"))
	if f.has("orphan") { // as a server that outlives its parent, with the daemon's output open
		server := exec.Command("sh", "-c", "sleep 60 & echo server $!")
		server.Stdout = os.Stdout
		if err := server.Run(); err != nil {
			panic(err)
		}
	}
	_ = os.Remove(socket)
	listener, err := net.Listen("unixpacket", socket)
	if err != nil {
		panic(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return 1
		}
		go f.answer(connection)
	}
}

func (f *fake) answer(connection net.Conn) {
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil || f.has("deaf") || (f.has("hang") && strings.HasPrefix(line, "device_query")) {
		select {} // with the connection open, so that who asks waits
	}
	f.mutex.Lock()
	defer f.mutex.Unlock()
	fmt.Fprint(connection, f.reply(strings.Fields(line)))
	connection.Close()
}

func (f *fake) reply(words []string) string {
	verb, arguments := words[0], words[1:]
	switch verb {
	case "device_query":
		return f.deviceQuery()
	case "get_server_list":
		return strings.Join(append(f.servers, ""), "\n")
	case "ps":
		return f.ps()
	case "exit_now":
		os.Exit(4)
	}
	scope := ""
	if !strings.Contains(verb, "_default_") {
		scope, arguments = arguments[0], arguments[1:]
	}
	limits, known := f.scopes[scope]
	if !known || scope != "" && scope == f.value("gone") {
		return "Server " + scope + " not found\n"
	}
	switch {
	case f.has("old") || !strings.Contains(verb, "et_"):
		return fmt.Sprintf("Unknown command %q\n", verb)
	case verb == "get_server_status":
		return "ACTIVE\n"
	case verb == "get_device_client_list": // one process of the daemon's PID namespace, two of others
		return fmt.Sprintf("[0] 00:00.0, NVIDIA H100 80GB HBM3\n%d.1\n0.1\n0.1\n", f.clientPID(scope))
	case strings.HasSuffix(verb, threads):
		if strings.HasPrefix(verb, "set") && !f.has("stubborn") {
			if value, err := strconv.ParseFloat(arguments[0], 64); err == nil && value > 0 && value <= 100 {
				limits.percentage = oneDecimal(arguments[0])
			}
		}
		return limits.percentage + "\n"
	case strings.HasPrefix(verb, "get"):
		if limits.memory[arguments[0]] == "" {
			return ""
		}
		return limits.memory[arguments[0]] + "\n"
	case !f.has("stubborn-memory"):
		limits.memory[arguments[0]] = wholeGibi(arguments[1])
	}
	return ""
}

func oneDecimal(text string) string {
	value, _ := strconv.ParseFloat(text, 64)
	return fmt.Sprintf("%.1f", value)
}

func wholeGibi(text string) string {
	if text == "0" {
		return ""
	}
	if mebi, err := strconv.Atoi(strings.TrimSuffix(text, "M")); err == nil && mebi >= 1024 {
		return fmt.Sprintf("%dG", mebi/1024)
	}
	return text
}

func fakeUUID(ordinal int) string {
	return fmt.Sprintf("GPU-99be8e08-892a-b332-2940-abef2c93cd8%d", ordinal)
}

func (f *fake) deviceQuery() string {
	table := "Device Ordinal  PCI IDs        UUID                                      Name                              Attributes\n"
	for ordinal := range f.devices {
		table += fmt.Sprintf("%-16d0000:00.%02d.00  %s  NVIDIA H100 80GB HBM3             N/A\n", ordinal, ordinal+6, fakeUUID(ordinal))
	}
	text := "Default\n" + table
	for _, server := range f.servers {
		text += "\nServer " + server + "\n" + table
	}
	return text
}

func (f *fake) ps() string {
	if len(f.servers) == 0 {
		return "Server not found\n"
	}
	text := "PID       ID        SERVER         DEVICE                    NAMESPACE      COMMAND        \n"
	for _, server := range f.servers {
		text += fmt.Sprintf("%-10d%-10d%-15s%-26s%-15d%-15s\n", f.clientPID(server), 4, server, fakeUUID(0)[:22], 4026531836, "python3")
		text += fmt.Sprintf("%-10d%-10d%-15s%-26s%-15s%-15s\n", 0, 5, server, fakeUUID(0)[:22], "?", "?")
	}
	return text
}

func (f *fake) clientPID(server string) int { return 600 + slices.Index(f.servers, server) }
