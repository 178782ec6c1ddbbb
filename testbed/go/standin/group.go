package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// join makes the group: rank 0 waits for the others on the master port, they look for it. It closes
// joined when all are there and returns when a member is lost (STANDIN_ON_LOSS=stay: never).
func join(options Options, joined chan<- struct{}) error {
	if options.Nodes <= 1 {
		close(joined)
		return nil
	}
	lost := make(chan error, options.Nodes)
	var err error
	if options.Rank == 0 {
		err = lead(options, lost)
	} else {
		err = follow(options, lost)
	}
	if err != nil {
		return err
	}
	close(joined)
	err = <-lost
	fmt.Println("standin:", err)
	if variable("STANDIN_ON_LOSS", "exit") == "stay" {
		return nil
	}
	return err
}

func lead(options Options, lost chan<- error) error {
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(options.MasterPort))
	if err != nil {
		return err
	}
	members := map[string]net.Conn{}
	for len(members) < options.Nodes-1 {
		member, err := listener.Accept()
		if err != nil {
			return err
		}
		member.SetReadDeadline(time.Now().Add(5 * time.Second))
		line, err := bufio.NewReader(member).ReadString('\n')
		rank := strings.TrimSpace(line)
		if err != nil || members[rank] != nil {
			member.Close() // a probe of the port, or a rank that is there already
			continue
		}
		member.SetReadDeadline(time.Time{})
		members[rank] = member
		fmt.Printf("standin: rank %s joined (%d of %d)\n", rank, len(members), options.Nodes-1)
	}
	listener.Close()
	for rank, member := range members {
		fmt.Fprintln(member, "start")
		go func() {
			member.Read(make([]byte, 1)) // nothing comes but the end
			lost <- fmt.Errorf("lost rank %s", rank)
		}()
	}
	return nil
}

func follow(options Options, lost chan<- error) error {
	address := net.JoinHostPort(options.MasterAddr, strconv.Itoa(options.MasterPort))
	limit := time.Now().Add(seconds("STANDIN_JOIN_SECONDS", 1800))
	for time.Now().Before(limit) {
		leader, err := net.DialTimeout("tcp", address, 2*time.Second)
		if err != nil {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		fmt.Fprintln(leader, options.Rank)
		reader := bufio.NewReader(leader)
		if _, err := reader.ReadString('\n'); err != nil {
			leader.Close()
			time.Sleep(200 * time.Millisecond)
			continue
		}
		go func() {
			reader.ReadByte()
			lost <- errors.New("lost the leader")
		}()
		return nil
	}
	return fmt.Errorf("no leader at %s", address)
}
