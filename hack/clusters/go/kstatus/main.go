// Kstatus says what Flux would of resources: it reads them as JSON, one a line, and answers each with a line of JSON,
// {"status": …, "message": …}, as the library computes them that Flux waits with.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func main() {
	log.SetFlags(0)
	out := bufio.NewWriter(os.Stdout)
	if err := judge(json.NewDecoder(os.Stdin), json.NewEncoder(out)); err != nil {
		log.Fatal(err)
	}
	if err := out.Flush(); err != nil {
		log.Fatal(err)
	}
}

func judge(in *json.Decoder, out *json.Encoder) error {
	for {
		resource := &unstructured.Unstructured{}
		if err := in.Decode(resource); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		computed, err := status.Compute(resource)
		if err != nil {
			return err
		}
		answer := map[string]string{"status": computed.Status.String(), "message": computed.Message}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}
