package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const ownName = "mps-daemon"

// install puts this program into a folder that a container of another image has as well, whole or not at all.
func install(args []string, notes io.Writer) error {
	if len(args) != 1 {
		return misuse{errors.New("install: name one folder; mps-daemon --help lists the commands")}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("install: where is this program? %w", err)
	}
	place := filepath.Join(args[0], ownName)
	if err := copyProgram(self, place); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	_, err = fmt.Fprintln(notes, "mps-daemon: installed", place)
	return err
}

func copyProgram(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	partial, err := os.CreateTemp(filepath.Dir(to), ownName)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeIfThere(partial.Name())) }()
	_, err = io.Copy(partial, source)
	// Also for a user that is not the one who installs it.
	if err = errors.Join(err, partial.Chmod(0o755), partial.Close()); err != nil {
		return err
	}
	return os.Rename(partial.Name(), to)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
