package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	rpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/protobuf/types/known/emptypb"
)

func TestCreateRunsOnlyTheCreateCommandAndTrimsOneNewline(t *testing.T) {
	r := startPlugin(t).create(props{
		"create": `printf 'out\n\n'; printf 'err\n' >&2`, "update": "exit 1", "delete": "exit 1",
	})
	expect(t, r.outputs, "stdout", "out\n")
	expect(t, r.outputs, "stderr", "err")
	if !strings.HasPrefix(r.id, "name") || len(r.id) != len("name")+8 {
		t.Errorf("id %q is not the name and 8 digits", r.id)
	}
}

func TestWithoutCreateCommandNothingRunsAndOutputsAreEmpty(t *testing.T) {
	r := startPlugin(t).create(props{"delete": "true"})
	expect(t, r.outputs, "stdout", "")
	expect(t, r.outputs, "stderr", "")
}

func TestUpdateRunsTheUpdateCommandWithThePreviousOutput(t *testing.T) {
	e := startPlugin(t)
	inputs := props{
		"create": "echo one; echo two >&2",
		"update": `echo "$PULUMI_COMMAND_STDOUT+$PULUMI_COMMAND_STDERR+$X"`,
	}
	r := e.create(inputs)
	inputs["environment"] = props{"X": "three"}
	r = e.update(r, inputs)
	expect(t, r.outputs, "stdout", "one+two+three")
	expect(t, r.outputs, "stderr", "")
}

func TestUpdateWithoutUpdateCommandRunsCreate(t *testing.T) {
	e := startPlugin(t)
	for name, update := range map[string]props{"unset": {}, "empty": {"update": ""}} {
		r := e.create(props{"create": "echo first"})
		update["create"] = `echo "second after $PULUMI_COMMAND_STDOUT"`
		r = e.update(r, update)
		if got := r.outputs["stdout"].StringValue(); got != "second after first" {
			t.Errorf("update %s: stdout %q", name, got)
		}
	}
}

func TestAnyChangedInputRunsTheUpdateCommand(t *testing.T) {
	e := startPlugin(t)
	for _, change := range []props{{"delete": "true"}, {"logging": "none"}, {"stdin": "x"}, {"dir": "/"}} {
		inputs := props{"create": "echo create", "update": "echo update"}
		r := e.create(inputs)
		for name, value := range change {
			inputs[name] = value
		}
		expect(t, e.update(r, inputs).outputs, "stdout", "update")
	}
}

func TestUpdateWithNoCommandAtAllKeepsTheOutput(t *testing.T) {
	e := startPlugin(t)
	r := e.create(props{"create": "echo kept"})
	expect(t, e.update(r, props{"delete": "true"}).outputs, "stdout", "kept")
}

func TestDeleteRunsOnlyIfSetAndSeesThePreviousOutput(t *testing.T) {
	e := startPlugin(t)
	file := filepath.Join(t.TempDir(), "deleted")
	must(t, e.delete(e.create(props{"create": "echo x"})))
	must(t, e.delete(e.create(props{
		"create": "echo out; echo err >&2", "environment": props{"FILE": file},
		"delete": `printf %s "$PULUMI_COMMAND_STDOUT,$PULUMI_COMMAND_STDERR" > "$FILE"`,
	})))
	got, err := os.ReadFile(file)
	must(t, err)
	if string(got) != "out,err" {
		t.Errorf("delete saw %q", got)
	}
}

func TestPreviousOutputStaysOutOfTheEnvironmentIfSwitchedOff(t *testing.T) {
	e := startPlugin(t)
	inputs := props{
		"create": "echo out; echo err >&2", "addPreviousOutputInEnv": false,
		"update": `echo "${PULUMI_COMMAND_STDOUT-unset} ${PULUMI_COMMAND_STDERR-unset}"`,
		"delete": `test -z "${PULUMI_COMMAND_STDOUT+x}${PULUMI_COMMAND_STDERR+x}"`,
	}
	r := e.create(inputs)
	inputs["stdin"] = "changed"
	r = e.update(r, inputs)
	expect(t, r.outputs, "stdout", "unset unset")
	must(t, e.delete(r))
}

func TestFailingCreateReportsStatusAndStderr(t *testing.T) {
	_, err := startPlugin(t).tryCreate(t.Context(), props{"create": "echo progress; echo reason >&2; exit 7"}, false)
	expectError(t, err, "exit status 7", "stderr:\nreason")
}

func TestFailureWithoutStderrReportsStdout(t *testing.T) {
	_, err := startPlugin(t).tryCreate(t.Context(), props{"create": "echo reason; exit 1"}, false)
	expectError(t, err, "exit status 1", "stdout:\nreason")
}

func TestFailingUpdateAndDeleteAreErrorsSoThatTheOldStateStays(t *testing.T) {
	e := startPlugin(t)
	inputs := props{"create": "true", "update": "echo u >&2; exit 3", "delete": "echo d >&2; exit 4"}
	r := e.create(inputs)
	inputs["stdin"] = "changed"
	_, err := e.tryUpdate(r, inputs, false)
	expectError(t, err, "exit status 3", "u")
	expectError(t, e.delete(r), "exit status 4", "d")
}

func TestPreviewRunsNothingAndKnowsNoOutput(t *testing.T) {
	e := startPlugin(t)
	file := filepath.Join(t.TempDir(), "ran")
	inputs := props{"create": "touch " + file, "assetPaths": []any{"*"}, "archivePaths": []any{"*"}, "dir": t.TempDir()}
	previewed, err := e.tryCreate(t.Context(), inputs, true)
	must(t, err)
	for _, name := range []string{"stdout", "stderr", "assets", "archive"} {
		if got := previewed.outputs[resourceKey(name)]; !got.IsComputed() {
			t.Errorf("preview of create: %s = %v is not unknown", name, got)
		}
	}
	expect(t, previewed.outputs, "create", "touch "+file)

	r := e.create(props{"create": "echo old"})
	// An input that was not there before is what the framework overlooks.
	previewed, err = e.tryUpdate(r, props{"create": "echo old", "stdin": "new", "update": "touch " + file}, true)
	must(t, err)
	for _, name := range []string{"stdout", "stderr"} {
		if got := previewed.outputs[resourceKey(name)]; !got.IsComputed() {
			t.Errorf("preview of update: %s = %v is not unknown", name, got)
		}
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Error("a preview ran a command")
	}
}

func TestDiffKinds(t *testing.T) {
	e := startPlugin(t)
	base := props{"create": "true", "environment": props{"A": "1", "B": "2"}, "triggers": []any{"x", 1}}
	r := e.create(base)
	with := func(change props) props {
		inputs := props{}
		for name, value := range base {
			inputs[name] = value
		}
		for name, value := range change {
			inputs[name] = value
			if value == nil {
				delete(inputs, name)
			}
		}
		return inputs
	}
	for name, test := range map[string]struct {
		change props
		want   map[string]rpc.PropertyDiff_Kind
	}{
		"nothing":         {props{}, nil},
		"create":          {props{"create": "false"}, map[string]rpc.PropertyDiff_Kind{"create": rpc.PropertyDiff_UPDATE}},
		"update added":    {props{"update": "true"}, map[string]rpc.PropertyDiff_Kind{"update": rpc.PropertyDiff_ADD}},
		"only delete":     {props{"delete": "true"}, map[string]rpc.PropertyDiff_Kind{"delete": rpc.PropertyDiff_ADD}},
		"only logging":    {props{"logging": "none"}, map[string]rpc.PropertyDiff_Kind{"logging": rpc.PropertyDiff_ADD}},
		"environment":     {props{"environment": props{"A": "3"}}, map[string]rpc.PropertyDiff_Kind{"environment.A": rpc.PropertyDiff_UPDATE, "environment.B": rpc.PropertyDiff_DELETE}},
		"trigger changed": {props{"triggers": []any{"y", 1}}, map[string]rpc.PropertyDiff_Kind{"triggers[0]": rpc.PropertyDiff_UPDATE_REPLACE}},
		"trigger added":   {props{"triggers": []any{"x", 1, true}}, map[string]rpc.PropertyDiff_Kind{"triggers[2]": rpc.PropertyDiff_ADD_REPLACE}},
		"trigger removed": {props{"triggers": []any{"x"}}, map[string]rpc.PropertyDiff_Kind{"triggers[1]": rpc.PropertyDiff_DELETE_REPLACE}},
		"all triggers":    {props{"triggers": nil}, map[string]rpc.PropertyDiff_Kind{"triggers": rpc.PropertyDiff_DELETE_REPLACE}},
	} {
		t.Run(name, func(t *testing.T) {
			resp := e.diff(r, with(test.change))
			got := map[string]rpc.PropertyDiff_Kind{}
			replace := false
			for path, change := range resp.DetailedDiff {
				got[path] = change.Kind
				replace = replace || strings.Contains(change.Kind.String(), "REPLACE")
			}
			if len(got)+len(test.want) > 0 && !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if changed := resp.Changes == rpc.DiffResponse_DIFF_SOME; changed != (len(test.want) > 0) {
				t.Errorf("changes: %v", resp.Changes)
			}
			if replace != (len(resp.Replaces) > 0) {
				t.Errorf("replaces: %v", resp.Replaces)
			}
		})
	}
}

func TestDiffIsEmptyForAResourceWithoutCreate(t *testing.T) {
	e := startPlugin(t)
	inputs := props{"delete": "true", "interpreter": []any{"/bin/sh", "-c"}}
	if resp := e.diff(e.create(inputs), inputs); resp.Changes != rpc.DiffResponse_DIFF_NONE {
		t.Errorf("changes %v: %v", resp.Changes, resp.DetailedDiff)
	}
}

func TestRefreshKeepsStateAndRunsNothing(t *testing.T) {
	e := startPlugin(t)
	r := e.create(props{"create": "echo state", "update": "exit 1"})
	resp, err := e.client.Read(t.Context(), &rpc.ReadRequest{Urn: urn, Id: r.id, Properties: r.state, Inputs: r.inputs})
	must(t, err)
	expect(t, e.unmarshal(resp.Properties), "stdout", "state")
}

func TestCheckNamesWhatIsInvalid(t *testing.T) {
	e := startPlugin(t)
	for property, inputs := range map[string]props{
		"logging":      {"logging": "loud"},
		"assetPaths":   {"assetPaths": []any{"[a"}},
		"archivePaths": {"archivePaths": []any{"!b["}},
		"creat":        {"creat": "true"},
	} {
		resp, err := e.client.Check(t.Context(), &rpc.CheckRequest{Urn: urn, News: e.marshal(inputs)})
		must(t, err)
		if len(resp.Failures) != 1 || resp.Failures[0].Property != property {
			t.Errorf("%v: failures %v", inputs, resp.Failures)
		}
	}
}

func TestPluginSaysThatItIsAStandIn(t *testing.T) {
	e := startPlugin(t)
	info, err := e.client.GetPluginInfo(t.Context(), &emptypb.Empty{})
	must(t, err)
	if info.Version != version+"+closed-network-stand-in" {
		t.Errorf("version %q", info.Version)
	}
	schema, err := e.client.GetSchema(t.Context(), &rpc.GetSchemaRequest{})
	must(t, err)
	for _, part := range []string{
		`"name":"command"`, `"displayName":"Command (closed-network stand-in)"`,
		`"command:local:Command"`, `"command:local:run"`, `"command:local:Logging"`, `"replaceOnChanges":true`,
	} {
		if !strings.Contains(schema.Schema, part) {
			t.Errorf("schema lacks %s", part)
		}
	}
}

func TestRemoteIsRefusedWithItsReason(t *testing.T) {
	e := startPlugin(t)
	for _, name := range []string{"Command", "CopyFile", "CopyToRemote"} {
		_, err := e.client.Check(t.Context(), &rpc.CheckRequest{
			Urn: "urn:pulumi:stack::project::command:remote:" + name + "::name", News: e.marshal(props{}),
		})
		expectError(t, err, "command:remote:"+name+": not in the closed-network stand-in")
	}
	_, err := e.client.Check(t.Context(), &rpc.CheckRequest{
		Urn: "urn:pulumi:stack::project::command:local:Other::name", News: e.marshal(props{}),
	})
	expectError(t, err, "command:local:Other: no such resource")
}
