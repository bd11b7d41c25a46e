package main

import (
	"context"

	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
)

// Command is command:local:Command, a resource whose life cycle steps are
// commands on this machine.
type Command struct{}

func (c *Command) Annotate(a infer.Annotator) {
	a.SetToken("local", "Command")
	a.Describe(&c, "A local command, run when the resource is created, updated or deleted. "+
		"This is the closed-network stand-in for upstream's resource.")
}

// CommandInputs are the resource's inputs.
type CommandInputs struct {
	Create   *string `pulumi:"create,optional"`
	Update   *string `pulumi:"update,optional"`
	Delete   *string `pulumi:"delete,optional"`
	Triggers []any   `pulumi:"triggers,optional" provider:"replaceOnChanges"`
	Options
}

func (c *CommandInputs) Annotate(a infer.Annotator) {
	a.Describe(&c.Create, "The command to run on create, and on update if `update` is not set.")
	a.Describe(&c.Update, "The command to run when any input has changed; `create` by default.")
	a.Describe(&c.Delete, "The command to run on delete; none by default.")
	a.Describe(&c.Triggers, "Values of any type; a change of one replaces the resource.")
}

// CommandState is what the stack remembers of the resource.
type CommandState struct {
	CommandInputs
	Outputs
}

// Check refuses, at preview already, inputs that no command could run with.
func (*Command) Check(ctx context.Context, req infer.CheckRequest) (infer.CheckResponse[CommandInputs], error) {
	inputs, failures, err := infer.DefaultCheck[CommandInputs](ctx, req.NewInputs)
	if err == nil {
		failures = append(failures, inputs.check()...)
	}
	return infer.CheckResponse[CommandInputs]{Inputs: inputs, Failures: failures}, err
}

// Create runs the create command. If it fails there is no resource.
func (*Command) Create(
	ctx context.Context, req infer.CreateRequest[CommandInputs],
) (infer.CreateResponse[CommandState], error) {
	state := CommandState{CommandInputs: req.Inputs}
	if req.DryRun {
		return infer.CreateResponse[CommandState]{Output: state}, nil
	}
	id, err := resource.NewUniqueHex(req.Name, 8, 0)
	if err != nil {
		return infer.CreateResponse[CommandState]{}, err
	}
	if command := firstSet(req.Inputs.Create); command != "" {
		state.Outputs, err = execute(ctx, command, req.Inputs.Options, nil)
	}
	return infer.CreateResponse[CommandState]{ID: id, Output: state}, err
}

// Update runs the update command, or else the create command, whichever input
// has changed: upstream documents both as running "when the resource's inputs
// are modified" and makes no exception for delete or logging. If it fails the
// old state stays.
func (*Command) Update(
	ctx context.Context, req infer.UpdateRequest[CommandInputs, CommandState],
) (infer.UpdateResponse[CommandState], error) {
	state := CommandState{CommandInputs: req.Inputs, Outputs: req.State.Outputs}
	command := firstSet(req.Inputs.Update, req.Inputs.Create)
	if req.DryRun || command == "" {
		return infer.UpdateResponse[CommandState]{Output: state}, nil
	}
	var err error
	state.Outputs, err = execute(ctx, command, req.Inputs.Options, &req.State.Outputs)
	return infer.UpdateResponse[CommandState]{Output: state}, err
}

// Delete runs the delete command, if there is one. If it fails the resource stays.
func (*Command) Delete(ctx context.Context, req infer.DeleteRequest[CommandState]) (infer.DeleteResponse, error) {
	command := firstSet(req.State.Delete)
	if command == "" {
		return infer.DeleteResponse{}, nil
	}
	_, err := execute(ctx, command, req.State.Options, &req.State.Outputs)
	return infer.DeleteResponse{}, err
}

// WireDependencies makes the outputs as secret as the inputs that a command can
// print. Triggers, delete and logging do not reach its output.
func (*Command) WireDependencies(f infer.FieldSelector, args *CommandInputs, state *CommandState) {
	sources := append(args.secretSources(f),
		f.InputField(&args.Create).Secret(), f.InputField(&args.Update).Secret())
	state.wire(f, append(sources, f.InputField(args).Computed()))
}

// secretSources are the shared inputs whose text a command can print.
func (o *Options) secretSources(f infer.FieldSelector) []infer.InputField {
	return []infer.InputField{
		f.InputField(&o.Stdin).Secret(), f.InputField(&o.Environment).Secret(),
		f.InputField(&o.Dir).Secret(), f.InputField(&o.Interpreter).Secret(),
	}
}

func (o *Outputs) wire(f infer.FieldSelector, sources []infer.InputField) {
	for _, output := range []any{&o.Stdout, &o.Stderr, &o.Assets, &o.Archive} {
		f.OutputField(output).DependsOn(sources...)
	}
}

// firstSet is the first command that is set; upstream takes an empty one for unset.
func firstSet(commands ...*string) string {
	for _, command := range commands {
		if command != nil && *command != "" {
			return *command
		}
	}
	return ""
}
