package main

import (
	"fmt"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi-go-provider/infer/types"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
)

// Logging says which of a command's streams go to the engine's log.
type Logging string

// The values of [Logging]; leaving it out logs both streams.
const (
	LogStdout Logging = "stdout"
	LogStderr Logging = "stderr"
	LogBoth   Logging = "stdoutAndStderr"
	LogNone   Logging = "none"
)

func (Logging) Values() []infer.EnumValue[Logging] {
	return []infer.EnumValue[Logging]{
		{Name: string(LogStdout), Value: LogStdout, Description: "Log stdout only."},
		{Name: string(LogStderr), Value: LogStderr, Description: "Log stderr only."},
		{Name: string(LogBoth), Value: LogBoth, Description: "Log stdout and stderr."},
		{Name: string(LogNone), Value: LogNone, Description: "Log nothing."},
	}
}

func (l *Logging) Annotate(a infer.Annotator) { a.SetToken("local", "Logging") }

// Options are the inputs that the resource and the function share.
type Options struct {
	Stdin                  *string           `pulumi:"stdin,optional"`
	Logging                *Logging          `pulumi:"logging,optional"`
	AssetPaths             []string          `pulumi:"assetPaths,optional"`
	ArchivePaths           []string          `pulumi:"archivePaths,optional"`
	Dir                    *string           `pulumi:"dir,optional"`
	Environment            map[string]string `pulumi:"environment,optional"`
	Interpreter            []string          `pulumi:"interpreter,optional"`
	AddPreviousOutputInEnv *bool             `pulumi:"addPreviousOutputInEnv,optional"`
}

func (o *Options) Annotate(a infer.Annotator) {
	a.Describe(&o.Stdin, "Text for the command's standard input; without it the input is empty.")
	a.Describe(&o.Logging, "Which streams go to the log while the command runs; both by default. "+
		"The outputs hold both streams whatever is logged.")
	a.Describe(&o.AssetPaths, "Globs, relative to `dir`, of files to return in `assets` after the command; "+
		"a pattern that begins with `!` takes files out again.")
	a.Describe(&o.ArchivePaths, "Globs, as in `assetPaths`, of files to return in `archive` after the command.")
	a.Describe(&o.Dir, "The directory to run in; it has to exist.")
	a.Describe(&o.Environment, "Variables to add to the environment that the command inherits.")
	a.Describe(&o.Interpreter, "The program, with its arguments, that gets the command as its last argument; "+
		"`[\"/bin/sh\", \"-c\"]` by default.")
	a.Describe(&o.AddPreviousOutputInEnv, "Whether update and delete find the previous output in "+
		"PULUMI_COMMAND_STDOUT and PULUMI_COMMAND_STDERR.")
	a.SetDefault(&o.AddPreviousOutputInEnv, true)
}

// interpreter is the program, with its arguments, that runs a command.
func (o Options) interpreter() []string {
	if len(o.Interpreter) == 0 {
		return []string{"/bin/sh", "-c"}
	}
	return o.Interpreter
}

func (o Options) dir() string {
	if o.Dir == nil {
		return ""
	}
	return *o.Dir
}

// logs says whether one stream, LogStdout or LogStderr, is to be logged.
func (o Options) logs(stream Logging) bool {
	return o.Logging == nil || *o.Logging == "" || *o.Logging == LogBoth || *o.Logging == stream
}

// withPrevious says whether the previous output goes into the environment. The
// state of a resource from before the option existed has no value for it.
func (o Options) withPrevious() bool {
	return o.AddPreviousOutputInEnv == nil || *o.AddPreviousOutputInEnv
}

// check lists all inputs that no command could run with.
func (o Options) check() []p.CheckFailure {
	var failures []p.CheckFailure
	if o.Logging != nil && *o.Logging != "" {
		known := false
		var names []string
		for _, value := range o.Logging.Values() {
			known = known || value.Value == *o.Logging
			names = append(names, value.Name)
		}
		if !known {
			failures = append(failures, p.CheckFailure{Property: "logging", Reason: fmt.Sprintf(
				"%q is not one of %s", *o.Logging, strings.Join(names, ", "))})
		}
	}
	for property, patterns := range map[string][]string{"assetPaths": o.AssetPaths, "archivePaths": o.ArchivePaths} {
		if _, err := compileRules(patterns); err != nil {
			failures = append(failures, p.CheckFailure{Property: property, Reason: err.Error()})
		}
	}
	return failures
}

// Outputs are what one run of a command leaves behind.
type Outputs struct {
	Stdout  string                           `pulumi:"stdout"`
	Stderr  string                           `pulumi:"stderr"`
	Assets  map[string]*types.AssetOrArchive `pulumi:"assets,optional"`
	Archive *resource.Archive                `pulumi:"archive,optional"`
}

func (o *Outputs) Annotate(a infer.Annotator) {
	a.Describe(&o.Stdout, "The command's standard output, without its last newline.")
	a.Describe(&o.Stderr, "The command's standard error, without its last newline.")
	a.Describe(&o.Assets, "The files found by `assetPaths`, keyed by their path relative to `dir`.")
	a.Describe(&o.Archive, "The files found by `archivePaths`.")
}
