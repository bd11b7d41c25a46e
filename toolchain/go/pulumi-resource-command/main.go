// Command pulumi-resource-command is a closed-network stand-in for Pulumi's own
// command provider: it runs local commands as Pulumi resources.
//
// It answers to the plugin name "command" and follows the behaviour that the
// SDK pulumi-command documents. It leaves out everything remote.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is the release of the SDK whose behaviour is followed; the build sets
// it with -ldflags "-X main.version=...".
var version = "1.2.1"

// pluginVersion marks every reported version as the stand-in's. Build metadata
// does not take part in a semantic version's order, so the engine accepts it
// wherever it asks for the plain version.
func pluginVersion() string { return version + "+closed-network-stand-in" }

const about = `pulumi-resource-command %s

A closed-network stand-in for Pulumi's command provider, used where upstream's
plugin cannot be downloaded. It is not published by Pulumi.

It has command:local:Command and command:local:run; command:remote:* answers
with an error. Pulumi starts it; by hand it only takes:

  -h, --help     print this text
  --version      print the version
`

func main() {
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case "-h", "-help", "--help", "help":
			fmt.Printf(about, pluginVersion())
			return
		case "-version", "--version", "version":
			fmt.Printf("%s (closed-network stand-in for pulumi-command)\n", pluginVersion())
			return
		}
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve answers the engine until it asks the plugin to stop.
func serve() error {
	provider, err := newProvider()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The gRPC server stops gracefully, which means that it waits for running
	// commands; without this they would run on and outlive a killed plugin.
	context.AfterFunc(ctx, func() { _ = provider.Cancel(context.Background()) })
	return provider.Run(ctx, "command", pluginVersion())
}
