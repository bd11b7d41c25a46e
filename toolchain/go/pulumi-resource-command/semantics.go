package main

import (
	"context"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// withSemantics adds what the types of an inferred resource cannot say: any
// change of a trigger replaces, a preview knows no output of a command that is
// going to run, and an update never makes a secret output public.
func withSemantics(provider p.Provider) p.Provider {
	diff, create, update := provider.Diff, provider.Create, provider.Update

	provider.Diff = func(ctx context.Context, req p.DiffRequest) (p.DiffResponse, error) {
		resp, err := diff(ctx, req)
		for path, change := range resp.DetailedDiff {
			if root(path) == "triggers" {
				change.Kind = asReplace(change.Kind)
				resp.DetailedDiff[path] = change
			}
		}
		return resp, err
	}
	provider.Create = func(ctx context.Context, req p.CreateRequest) (p.CreateResponse, error) {
		resp, err := create(ctx, req)
		if err == nil && req.DryRun {
			resp.Properties = unknownOutputs(req.Properties, resp.Properties)
		}
		return resp, err
	}
	provider.Update = func(ctx context.Context, req p.UpdateRequest) (p.UpdateResponse, error) {
		resp, err := update(ctx, req)
		if err != nil {
			return resp, err
		}
		// The engine asks for an update only if an input changed, and then a
		// command runs; the framework misses this where the input is a new one.
		if req.DryRun {
			resp.Properties = unknownOutputs(req.Inputs, resp.Properties)
		}
		resp.Properties = keepSecrets(req.State, resp.Properties)
		return resp, nil
	}
	return provider
}

// root is the first name of a property path such as triggers[0].sub.
func root(path string) string {
	parsed, err := resource.ParsePropertyPath(path)
	if err != nil || len(parsed) == 0 {
		return path
	}
	name, _ := parsed[0].(string)
	return name
}

func asReplace(kind p.DiffKind) p.DiffKind {
	switch kind {
	case p.Add:
		return p.AddReplace
	case p.Delete:
		return p.DeleteReplace
	case p.Update:
		return p.UpdateReplace
	default:
		return kind
	}
}

// unknownOutputs marks each output that the coming command may set.
func unknownOutputs(inputs, outputs property.Map) property.Map {
	unknown := func(name string) {
		secret := outputs.Get(name).Secret()
		outputs = outputs.Set(name, property.New(property.Computed).WithSecret(secret))
	}
	if !given(inputs, "create") && !given(inputs, "update") {
		return outputs
	}
	unknown("stdout")
	unknown("stderr")
	for input, output := range map[string]string{"assetPaths": "assets", "archivePaths": "archive"} {
		if given(inputs, input) {
			unknown(output)
		} else {
			outputs = outputs.Delete(output)
		}
	}
	return outputs
}

// given says whether an input is set to something, be it still unknown.
func given(inputs property.Map, name string) bool {
	value, ok := inputs.GetOk(name)
	return ok && !value.IsNull() && !(value.IsString() && value.AsString() == "")
}

// keepSecrets guards what a command may hand on from its previous output: with
// PULUMI_COMMAND_STDOUT in its environment it can print an old secret although
// its inputs hold none any longer.
func keepSecrets(state, outputs property.Map) property.Map {
	for _, name := range []string{"stdout", "stderr", "assets", "archive"} {
		value, ok := outputs.GetOk(name)
		if ok && state.Get(name).Secret() {
			outputs = outputs.Set(name, value.WithSecret(true))
		}
	}
	return outputs
}
