package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestInstalledProgramIsThisOne(t *testing.T) {
	t.Parallel()
	n, folder := newNode(t, ""), t.TempDir()
	place := filepath.Join(folder, "mps-daemon")
	must(t, os.WriteFile(place, []byte("of before"), 0o400)) // a container that is started again installs it again
	n.expect(0, []string{"install", folder}, "mps-daemon: installed "+place)
	cmd := exec.Command(place, "--version")
	cmd.Env = n.env
	said, err := cmd.CombinedOutput()
	must(t, err)
	expectTexts(t, string(said), "mps-daemon unknown")
	found, err := os.ReadDir(folder)
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("more is left than the program: %v", found)
	}
	n.expect(1, []string{"install", filepath.Join(folder, "none")}, "mps-daemon: install: ", "no such file or directory")
	n.expect(2, []string{"install"}, "install: name one folder")
}
