package main

import (
	"context"
	"fmt"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// newProvider assembles the plugin: the local resource and function, and an
// answer for the tokens of upstream that the stand-in leaves out.
func newProvider() (p.Provider, error) {
	provider, err := infer.NewProviderBuilder().
		WithDisplayName("Command (closed-network stand-in)").
		WithDescription("A closed-network stand-in for Pulumi's command provider: command:local only.").
		WithKeywords("pulumi", "command", "stand-in").
		WithResources(infer.Resource(&Command{})).
		WithFunctions(infer.Function(&Run{})).
		WithWrapped(leftOut()).
		Build()
	if err != nil {
		return p.Provider{}, err
	}
	return withSemantics(provider), nil
}

// leftOut answers for every token that infer does not know.
func leftOut() p.Provider {
	return p.Provider{
		Check: func(_ context.Context, req p.CheckRequest) (p.CheckResponse, error) {
			return p.CheckResponse{}, leftOutError(req.Urn.Type())
		},
		Diff: func(_ context.Context, req p.DiffRequest) (p.DiffResponse, error) {
			return p.DiffResponse{}, leftOutError(req.Urn.Type())
		},
		Create: func(_ context.Context, req p.CreateRequest) (p.CreateResponse, error) {
			return p.CreateResponse{}, leftOutError(req.Urn.Type())
		},
		Read: func(_ context.Context, req p.ReadRequest) (p.ReadResponse, error) {
			return p.ReadResponse{}, leftOutError(req.Urn.Type())
		},
		Update: func(_ context.Context, req p.UpdateRequest) (p.UpdateResponse, error) {
			return p.UpdateResponse{}, leftOutError(req.Urn.Type())
		},
		Delete: func(_ context.Context, req p.DeleteRequest) error {
			return leftOutError(req.Urn.Type())
		},
		Invoke: func(_ context.Context, req p.InvokeRequest) (p.InvokeResponse, error) {
			return p.InvokeResponse{}, leftOutError(req.Token)
		},
	}
}

func leftOutError(token tokens.Type) error {
	message := fmt.Sprintf("%s: no such resource or function in the command provider", token)
	if strings.HasPrefix(string(token), "command:remote:") {
		message = fmt.Sprintf("%s: not in the closed-network stand-in for pulumi-command, which runs "+
			"local commands only; install upstream's plugin to use it", token)
	}
	return status.Error(codes.Unimplemented, message)
}
