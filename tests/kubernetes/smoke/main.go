// What the cluster's smoke test runs in its pods: a server whose readiness depends on what its pod was promised, and
// a client.
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: smoke write FILE | cat FILE | audience FILE | get URL | serve ADDRESS [FILE or URL that readiness needs]...")
	}
	var err error
	switch argument := os.Args[2]; os.Args[1] {
	case "write":
		err = os.WriteFile(argument, []byte("written by an init container\n"), 0o644)
	case "cat":
		err = print(os.ReadFile(argument))
	case "audience":
		err = print(audience(argument))
	case "get":
		err = print(get(argument))
	case "serve":
		err = serve(argument, os.Args[3:])
	default:
		err = fmt.Errorf("unknown command %s", os.Args[1])
	}
	if err != nil {
		log.Fatal(err)
	}
}

func print(content []byte, err error) error {
	if err == nil {
		_, err = os.Stdout.Write(content)
	}
	return err
}

func get(url string) ([]byte, error) {
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}

// The audiences that a token claims to be for.
func audience(file string) ([]byte, error) {
	token, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(string(token), ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%s holds no token", file)
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	var claims struct {
		Audience []string `json:"aud"`
	}
	err = json.Unmarshal(payload, &claims)
	return []byte(strings.Join(claims.Audience, " ")), err
}

// Answers with the pod's name until it is told to end; ready while everything that it needs is there.
func serve(address string, needs []string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, name) })
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		for _, need := range needs {
			var err error
			if strings.HasPrefix(need, "http://") {
				_, err = get(need)
			} else {
				_, err = os.Stat(need)
			}
			if err != nil {
				log.Print(err)
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
	})
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ended
		log.Print("told to end")
		os.Exit(0)
	}()
	log.Printf("%s serves on %s", name, address)
	return http.ListenAndServe(address, mux)
}
