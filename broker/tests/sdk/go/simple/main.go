// A simple consumer of the unmodified Go SDK that says what it gets, and acknowledges it.
//
// Usage: simple ENDPOINT TOPIC GROUP
// Prints `ready` before its first receive, `got BODY ATTEMPT` for every message when it comes, and ends with its input.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: simple ENDPOINT TOPIC GROUP")
	}
	endpoint, topic, group := os.Args[1], os.Args[2], os.Args[3]
	rmq.EnableSsl = false
	consumer, err := rmq.NewSimpleConsumer(
		&rmq.Config{Endpoint: endpoint, ConsumerGroup: group, Credentials: &credentials.SessionCredentials{}},
		rmq.WithSimpleAwaitDuration(5*time.Second),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: rmq.SUB_ALL}))
	must(err)
	must(consumer.Start())
	go func() {
		_, _ = io.ReadAll(os.Stdin)
		os.Exit(0)
	}()
	fmt.Println("ready")
	for {
		batch, err := consumer.Receive(context.Background(), 32, time.Minute)
		if status, ok := rmq.AsErrRpcStatus(err); ok && status.GetCode() == int32(v2.Code_MESSAGE_NOT_FOUND) {
			continue
		}
		must(err)
		for _, message := range batch {
			fmt.Println("got", string(message.GetBody()), message.GetDeliveryAttempt())
			must(consumer.Ack(context.Background(), message))
		}
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
