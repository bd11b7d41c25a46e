package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// family are the processes that this one started and waits for itself. As process 1 it inherits others: servers of a
// control daemon that died, and what a probe that was killed has left.
type family struct {
	mutex sync.Mutex
	own   map[int]bool
}

var started = family{own: map[int]bool{}}

func (f *family) start(cmd *exec.Cmd) error {
	f.mutex.Lock() // else a reaper could take the child for an inherited one
	defer f.mutex.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	f.own[cmd.Process.Pid] = true
	return nil
}

func (f *family) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	f.mutex.Lock()
	defer f.mutex.Unlock()
	delete(f.own, cmd.Process.Pid)
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil // it ended well; only its output is still open somewhere
	}
	return err
}

func (f *family) run(cmd *exec.Cmd) error {
	if err := f.start(cmd); err != nil {
		return err
	}
	return f.wait(cmd)
}

const prSetChildSubreaper = 36 // linux/prctl.h

// reapInherited makes this process the parent of every orphan below it, also where it is not process 1 (a pod whose
// containers share their processes), and clears away those that have ended.
func (f *family) reapInherited() {
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		for range ended {
			f.forInherited(func(pid int, state string) {
				if state == "Z" {
					_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
				}
			})
		}
	}()
}

// endInherited leaves no server behind that would hold the GPU without a daemon.
func (f *family) endInherited() {
	f.forInherited(func(pid int, _ string) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	})
}

func (f *family) forInherited(do func(pid int, state string)) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || f.own[pid] {
			continue
		}
		if state, parent := stateAndParent(pid); parent == os.Getpid() {
			do(pid, state)
		}
	}
}

// stateAndParent of a process that has gone are empty.
func stateAndParent(pid int) (state string, parent int) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", 0
	}
	text := string(content)
	words := strings.Fields(text[strings.LastIndex(text, ")")+1:]) // a program's name may hold spaces and brackets
	if len(words) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(words[1])
	return words[0], parent
}
