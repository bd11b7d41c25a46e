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

// processTable is the set of processes that this program started and waits for itself. As process 1 it inherits others:
// servers of a control daemon that died, and what a probe that was killed has left.
type processTable struct {
	mutex sync.Mutex
	pids  map[int]bool
}

// children is this program's table.
var children = processTable{pids: map[int]bool{}}

// start starts a command and enters its process.
func (p *processTable) start(cmd *exec.Cmd) error {
	p.mutex.Lock() // else a reaper could take the child for an inherited one
	defer p.mutex.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	p.pids[cmd.Process.Pid] = true
	return nil
}

// wait waits for the end of a command that start has started, and strikes its process out.
func (p *processTable) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	p.mutex.Lock()
	defer p.mutex.Unlock()
	delete(p.pids, cmd.Process.Pid)
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil // it ended well; only its output is still open somewhere
	}
	return err
}

// run starts a command and waits for its end.
func (p *processTable) run(cmd *exec.Cmd) error {
	if err := p.start(cmd); err != nil {
		return err
	}
	return p.wait(cmd)
}

// prSetChildSubreaper is PR_SET_CHILD_SUBREAPER of linux/prctl.h.
const prSetChildSubreaper = 36

// reapInherited makes this process the parent of every orphan below it, also where it is not process 1 (a pod whose
// containers share their processes), and clears away those that have ended.
func (p *processTable) reapInherited() {
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		for range ended {
			p.forInherited(func(pid int, state string) {
				if state == "Z" {
					_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
				}
			})
		}
	}()
}

// endInherited kills every inherited process: no server may stay that would hold the GPU without a daemon.
func (p *processTable) endInherited() {
	p.forInherited(func(pid int, _ string) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	})
}

// forInherited calls do with every child process that is not in the table.
func (p *processTable) forInherited(do func(pid int, state string)) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || p.pids[pid] {
			continue
		}
		if state, parent := stateAndParent(pid); parent == os.Getpid() {
			do(pid, state)
		}
	}
}

// stateAndParent returns a process's state letter and parent from /proc; both are empty for one that has gone.
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
