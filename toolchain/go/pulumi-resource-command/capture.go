package main

import (
	"bytes"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxLogLine bounds one log message; a longer line is logged in pieces.
const maxLogLine = 64 << 10

// replacement stands for bytes that are not UTF-8, which gRPC cannot carry.
const replacement = "\uFFFD"

// capture keeps one stream of a command and hands its lines on as they come.
type capture struct {
	log func(line string) // nil: the stream is not logged

	line []byte // the unfinished line; only the writer touches it

	mu  sync.Mutex // a process that outlived its command may still write
	all bytes.Buffer
}

func (c *capture) Write(data []byte) (int, error) {
	c.mu.Lock()
	c.all.Write(data)
	c.mu.Unlock()
	if c.log == nil {
		return len(data), nil
	}
	c.line = append(c.line, data...)
	for {
		end := bytes.IndexByte(c.line, '\n')
		switch {
		case end >= 0 && end <= maxLogLine:
			c.log(logText(c.line[:end]))
			c.line = c.line[end+1:]
		case len(c.line) > maxLogLine:
			cut := runeBoundary(c.line, maxLogLine)
			c.log(logText(c.line[:cut]))
			c.line = c.line[cut:]
		default:
			return len(data), nil
		}
	}
}

// flush logs a last line that has no newline. The writer must have finished.
func (c *capture) flush() {
	if c.log != nil && len(c.line) > 0 {
		c.log(logText(c.line))
		c.line = nil
	}
}

// output is the whole stream without its last newline; like upstream it drops
// one newline only, where a shell's command substitution drops all.
func (c *capture) output() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ToValidUTF8(strings.TrimSuffix(c.all.String(), "\n"), replacement)
}

func logText(line []byte) string {
	return strings.ToValidUTF8(strings.TrimSuffix(string(line), "\r"), replacement)
}

// runeBoundary is the last place at or before limit that splits no character.
func runeBoundary(text []byte, limit int) int {
	for cut := limit; cut > limit-utf8.UTFMax; cut-- {
		if utf8.RuneStart(text[cut]) {
			return cut
		}
	}
	return limit
}
