// Argocd-lua runs a script of Argo CD's resource customizations over resources: it reads them as JSON, one a line, and
// answers each with the value that the script returns for it, a line of JSON.
//
// Scripts get no more than Argo CD gives them: the resource as `obj`, a second of time, and of Lua's libraries the basic
// functions, `package` and `table`; not even the clock that Argo CD leaves of `os`.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	lua "github.com/yuin/gopher-lua"
	luajson "layeh.com/gopher-json"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: argocd-lua SCRIPT < RESOURCES")
	}
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	out := bufio.NewWriter(os.Stdout)
	in := json.NewDecoder(os.Stdin)
	for {
		var resource map[string]any
		if err := in.Decode(&resource); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			log.Fatal(err)
		}
		answer, err := run(string(script), resource)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Fprintf(out, "%s\n", answer)
	}
	if err := out.Flush(); err != nil {
		log.Fatal(err)
	}
}

func run(script string, resource map[string]any) ([]byte, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{{lua.LoadLibName, lua.OpenPackage}, {lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable}} {
		call := lua.P{Fn: state.NewFunction(library.open), Protect: true}
		if err := state.CallByParam(call, lua.LString(library.name)); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", luajson.DecodeValue(state, resource))
	if err := state.DoString(script); err != nil {
		return nil, err
	}
	returned := state.Get(-1)
	if returned.Type() != lua.LTTable {
		return nil, fmt.Errorf("the script returns %s instead of a table", returned.Type())
	}
	return luajson.Encode(returned)
}
