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

// settings are what `run` is told by its environment.
type settings struct {
	pipe, log, shm string
	limits         limits
}

func settingsFromEnvironment(get func(string) string) (settings, error) {
	var s settings
	var values [3]string
	for i, name := range variableNames {
		values[i] = get(name)
	}
	var problem [4]error
	s.pipe, problem[0] = pipeDirectory(get)
	s.log, problem[1] = absolute("CUDA_MPS_LOG_DIRECTORY", get("CUDA_MPS_LOG_DIRECTORY"))
	shm := get("SHM_DIRECTORY")
	if shm == "" {
		shm = "/dev/shm"
	}
	s.shm, problem[2] = absolute("SHM_DIRECTORY", shm)
	s.limits, problem[3] = parseLimits(values, variableNames)
	var found []error
	for _, err := range problem {
		found = append(found, unjoined(err)...)
	}
	return s, errors.Join(found...)
}

func pipeDirectory(get func(string) string) (string, error) {
	const name = "CUDA_MPS_PIPE_DIRECTORY"
	path, err := absolute(name, get(name))
	if most := socketPathBytes - len(longestSocket); err == nil && len(path) > most {
		err = fmt.Errorf("%s: %q has %d bytes, but sockets in it leave it %d; set a shorter path", name, path, len(path), most)
	}
	return path, err
}

func absolute(name, path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%s: %q is not an absolute path; set one like /run/nvidia/mps", name, path)
	}
	return filepath.Clean(path), nil
}

// makeDirectories makes them usable for clients of every user.
func (s settings) makeDirectories() error {
	for _, d := range []struct {
		name, path string
		mode       os.FileMode
	}{
		{"CUDA_MPS_PIPE_DIRECTORY", s.pipe, 0o755},
		{"CUDA_MPS_LOG_DIRECTORY", s.log, 0o755},
		{"SHM_DIRECTORY", s.shm, 0o777 | os.ModeSticky},
	} {
		if err := makeDirectory(d.path, d.mode); err != nil {
			return fmt.Errorf("%s: %w; mount a volume there that this user owns and may write", d.name, err)
		}
	}
	return nil
}

func makeDirectory(path string, mode os.FileMode) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	// Without capabilities only the owner may change a mode, so one that is right is left alone.
	if info.Mode()&(os.ModePerm|os.ModeSticky) == mode {
		return nil
	}
	return os.Chmod(path, mode)
}
