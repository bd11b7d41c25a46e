package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// socketPathBytes is what sun_path holds besides its final zero.
const socketPathBytes = 107

// longestSocket is the longest name that the daemon gives a socket in the pipe directory.
const longestSocket = "/control_privileged"

// settings is what the environment tells the command run.
type settings struct {
	pipe, log string
	limits    limits
}

// settingsFromEnvironment reads the settings and reports every problem at once.
func settingsFromEnvironment(get func(string) string) (settings, error) {
	var s settings
	var values [3]string
	for i, name := range variableNames {
		values[i] = get(name)
	}
	var errs [3]error
	s.pipe, errs[0] = pipeDirectory(get)
	s.log, errs[1] = absolute("CUDA_MPS_LOG_DIRECTORY", get("CUDA_MPS_LOG_DIRECTORY"))
	s.limits, errs[2] = parseLimits(values, variableNames)
	var problems []error
	for _, err := range errs {
		problems = append(problems, errorList(err)...)
	}
	return s, errors.Join(problems...)
}

// pipeDirectory reads CUDA_MPS_PIPE_DIRECTORY, which has to leave room for a socket's name.
func pipeDirectory(get func(string) string) (string, error) {
	const name = "CUDA_MPS_PIPE_DIRECTORY"
	path, err := absolute(name, get(name))
	if most := socketPathBytes - len(longestSocket); err == nil && len(path) > most {
		err = fmt.Errorf("%s: %q has %d bytes, but sockets in it leave it %d; set a shorter path", name, path, len(path), most)
	}
	return path, err
}

// absolute is the path without detours, or an error that names the variable it came from.
func absolute(name, path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%s: %q is not an absolute path; set one like /run/nvidia/mps", name, path)
	}
	return filepath.Clean(path), nil
}

// makeDirectories makes both directories, usable for clients of every user.
func (s settings) makeDirectories() error {
	for _, d := range []struct{ name, path string }{
		{"CUDA_MPS_PIPE_DIRECTORY", s.pipe},
		{"CUDA_MPS_LOG_DIRECTORY", s.log},
	} {
		if err := makeDirectory(d.path, 0o755); err != nil {
			return fmt.Errorf("%s: %w; mount a volume there that this user owns and may write", d.name, err)
		}
	}
	return nil
}

// makeDirectory makes one directory with a mode, whatever the process's umask.
func makeDirectory(path string, mode os.FileMode) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	// Without capabilities only the owner may change a mode, so one that is right is left alone.
	if info.Mode()&os.ModePerm == mode {
		return nil
	}
	return os.Chmod(path, mode)
}
