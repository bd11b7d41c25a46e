package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/rpcutil"
	rpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
)

const urn = "urn:pulumi:stack::project::command:local:Command::name"

// TestMain lets the test binary be the plugin, so that the tests hold a real
// gRPC conversation with a real process without building it once more.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_AS_PLUGIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// props writes the values of inputs and outputs in tests.
type props = map[string]any

// engine is the tests' side of the conversation with one plugin process.
type engine struct {
	t       *testing.T
	client  rpc.ResourceProviderClient
	conn    *grpc.ClientConn
	process *exec.Cmd
	log     *engineLog
}

// engineLog is the service of the engine that the plugin calls back.
type engineLog struct {
	rpc.UnimplementedEngineServer
	mu      sync.Mutex
	entries []*rpc.LogRequest
}

func (l *engineLog) Log(_ context.Context, entry *rpc.LogRequest) (*emptypb.Empty, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry)
	return &emptypb.Empty{}, nil
}

func (l *engineLog) all() []*rpc.LogRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

func startPlugin(t *testing.T) *engine {
	t.Helper()
	e := &engine{t: t, log: &engineLog{}}
	stop := make(chan bool)
	server, err := rpcutil.ServeWithOptions(rpcutil.ServeOptions{
		Cancel: stop,
		Init: func(s *grpc.Server) error {
			rpc.RegisterEngineServer(s, e.log)
			return nil
		},
	})
	must(t, err)

	e.process = exec.Command(os.Args[0], fmt.Sprintf("127.0.0.1:%d", server.Port))
	e.process.Env = append(os.Environ(), "RUN_AS_PLUGIN=1")
	e.process.Stderr = os.Stderr
	stdout, err := e.process.StdoutPipe()
	must(t, err)
	must(t, e.process.Start())
	port, err := bufio.NewReader(stdout).ReadString('\n')
	must(t, err)
	e.conn, err = grpc.NewClient("127.0.0.1:"+strings.TrimSpace(port),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	must(t, err)
	e.client = rpc.NewResourceProviderClient(e.conn)
	_, err = e.client.Configure(t.Context(), &rpc.ConfigureRequest{
		AcceptSecrets: true, AcceptResources: true, SendsOldInputs: true, SendsOldInputsToDelete: true,
	})
	must(t, err)

	t.Cleanup(func() {
		_ = e.conn.Close()
		_ = e.process.Process.Signal(syscall.SIGINT)
		kill := time.AfterFunc(10*time.Second, func() { _ = e.process.Process.Kill() })
		_ = e.process.Wait()
		kill.Stop()
		close(stop)
	})
	return e
}

var marshalOptions = plugin.MarshalOptions{KeepSecrets: true, KeepUnknowns: true, KeepResources: true}

func (e *engine) marshal(p props) *structpb.Struct {
	e.t.Helper()
	s, err := plugin.MarshalProperties(resource.NewPropertyMapFromMap(p), marshalOptions)
	must(e.t, err)
	return s
}

func (e *engine) unmarshal(s *structpb.Struct) resource.PropertyMap {
	e.t.Helper()
	p, err := plugin.UnmarshalProperties(s, marshalOptions)
	must(e.t, err)
	return p
}

// res is a resource as the engine remembers it.
type res struct {
	id            string
	inputs, state *structpb.Struct
	outputs       resource.PropertyMap
}

// check fills in the defaults; the inputs have to be valid.
func (e *engine) check(inputs props) *structpb.Struct {
	e.t.Helper()
	resp, err := e.client.Check(e.t.Context(), &rpc.CheckRequest{Urn: urn, News: e.marshal(inputs)})
	must(e.t, err)
	if len(resp.Failures) > 0 {
		e.t.Fatalf("check failed: %v", resp.Failures)
	}
	return resp.Inputs
}

func (e *engine) tryCreate(ctx context.Context, inputs props, preview bool) (res, error) {
	e.t.Helper()
	checked := e.check(inputs)
	resp, err := e.client.Create(ctx, &rpc.CreateRequest{Urn: urn, Properties: checked, Preview: preview})
	if err != nil {
		return res{}, err
	}
	return res{resp.Id, checked, resp.Properties, e.unmarshal(resp.Properties)}, nil
}

func (e *engine) create(inputs props) res {
	e.t.Helper()
	r, err := e.tryCreate(e.t.Context(), inputs, false)
	must(e.t, err)
	return r
}

func (e *engine) tryUpdate(old res, inputs props, preview bool) (res, error) {
	e.t.Helper()
	checked := e.check(inputs)
	resp, err := e.client.Update(e.t.Context(), &rpc.UpdateRequest{
		Urn: urn, Id: old.id, Olds: old.state, News: checked, OldInputs: old.inputs, Preview: preview,
	})
	if err != nil {
		return res{}, err
	}
	return res{old.id, checked, resp.Properties, e.unmarshal(resp.Properties)}, nil
}

func (e *engine) update(old res, inputs props) res {
	e.t.Helper()
	r, err := e.tryUpdate(old, inputs, false)
	must(e.t, err)
	return r
}

func (e *engine) delete(r res) error {
	_, err := e.client.Delete(e.t.Context(), &rpc.DeleteRequest{
		Urn: urn, Id: r.id, Properties: r.state, OldInputs: r.inputs,
	})
	return err
}

func (e *engine) diff(old res, inputs props) *rpc.DiffResponse {
	e.t.Helper()
	resp, err := e.client.Diff(e.t.Context(), &rpc.DiffRequest{
		Urn: urn, Id: old.id, Olds: old.state, News: e.check(inputs), OldInputs: old.inputs,
	})
	must(e.t, err)
	return resp
}

func (e *engine) cancel() {
	e.t.Helper()
	_, err := e.client.Cancel(e.t.Context(), &emptypb.Empty{})
	must(e.t, err)
}

// logged is every line that the engine has been told to show.
func (e *engine) logged() []string {
	var lines []string
	for _, entry := range e.log.all() {
		lines = append(lines, entry.Message)
	}
	return lines
}

func secret(value any) *resource.Secret {
	return &resource.Secret{Element: resource.NewPropertyValue(value)}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// expect fails unless an output is exactly the wanted plain string.
func expect(t *testing.T, outputs resource.PropertyMap, name, want string) {
	t.Helper()
	got := outputs[resource.PropertyKey(name)]
	if !got.IsString() || got.StringValue() != want {
		t.Errorf("%s = %v, want %q", name, got, want)
	}
}

func expectError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not contain %q", err, part)
		}
	}
}

// eventually waits for a condition, at most ten seconds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("%s: not within 10 s", what)
}
