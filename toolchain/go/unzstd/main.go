// unzstd writes what Zstandard frames on its standard input hold to its standard output.
//
// It travels beside the bundle, since the machine that unpacks it may have no zstd.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// The window that toolchain/bundle/archive.py compresses with: matches reach back so far.
const window = 1 << 30

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "unzstd:", err)
		os.Exit(1)
	}
}

func run() error {
	// Without low memory the buffer is twice the window, so what was written is moved once a window, not once a
	// megabyte: unpacking takes seconds instead of minutes.
	decoder, err := zstd.NewReader(os.Stdin, zstd.WithDecoderMaxWindow(window), zstd.WithDecoderLowmem(false))
	if err != nil {
		return err
	}
	defer decoder.Close()
	_, err = io.Copy(os.Stdout, decoder)
	return err
}
