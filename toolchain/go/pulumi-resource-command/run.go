package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/pulumi/pulumi-go-provider/infer"
)

// Run is command:local:run, a function that runs a command every time the
// program runs, previews included.
type Run struct{}

func (r *Run) Annotate(a infer.Annotator) {
	a.SetToken("local", "run")
	a.Describe(&r, "Runs a local command on every run of the program, previews included. "+
		"This is the closed-network stand-in for upstream's function.")
}

// RunInputs are the function's arguments.
type RunInputs struct {
	Command string `pulumi:"command"`
	Options
}

func (r *RunInputs) Annotate(a infer.Annotator) {
	a.Describe(&r.Command, "The command to run.")
}

// RunResult is the function's result, arguments included.
type RunResult struct {
	RunInputs
	Outputs
}

// Invoke runs the command once.
func (*Run) Invoke(
	ctx context.Context, req infer.FunctionRequest[RunInputs],
) (infer.FunctionResponse[RunResult], error) {
	var invalid []error
	for _, failure := range req.Input.check() {
		invalid = append(invalid, fmt.Errorf("%s: %s", failure.Property, failure.Reason))
	}
	if len(invalid) > 0 {
		return infer.FunctionResponse[RunResult]{}, errors.Join(invalid...)
	}
	result := RunResult{RunInputs: req.Input}
	var err error
	result.Outputs, err = execute(ctx, req.Input.Command, req.Input.Options, nil)
	return infer.FunctionResponse[RunResult]{Output: result}, err
}

// WireDependencies makes the result as secret as the arguments.
func (*Run) WireDependencies(f infer.FieldSelector, args *RunInputs, state *RunResult) {
	state.wire(f, append(args.secretSources(f), f.InputField(&args.Command).Secret()))
}
