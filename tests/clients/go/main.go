// Drives a node with etcd's own Go client, clientv3, and prints what it saw: one JSON object, keys sorted.
//
//	client ENDPOINT [CACERT CERT KEY]
//
// Every step that fails ends the program with status 1 and the step's name. A whole run takes well below 20 s.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const timeout = 20 * time.Second

var seen = map[string]any{}

func check(step string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", step, err)
		os.Exit(1)
	}
}

func connect(arguments []string) *clientv3.Client {
	config := clientv3.Config{Endpoints: arguments[:1], DialTimeout: timeout}
	if len(arguments) == 4 {
		pem, err := os.ReadFile(arguments[1])
		check("read the CA", err)
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		own, err := tls.LoadX509KeyPair(arguments[2], arguments[3])
		check("read the certificate", err)
		config.TLS = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}}
	}
	client, err := clientv3.New(config)
	check("connect", err)
	return client
}

func keysAndValues(ctx context.Context, c *clientv3.Client) {
	put, err := c.Put(ctx, "k1", "v1")
	check("put", err)
	seen["put_revision"] = put.Header.Revision
	_, err = c.Put(ctx, "k1", "v2", clientv3.WithPrevKV())
	check("put again", err)
	for i := range 10 {
		_, err = c.Put(ctx, fmt.Sprintf("p/%d", i), "x")
		check("put p", err)
	}
	got, err := c.Get(ctx, "k1")
	check("get", err)
	seen["value"], seen["version"] = string(got.Kvs[0].Value), got.Kvs[0].Version
	old, err := c.Get(ctx, "k1", clientv3.WithRev(put.Header.Revision), clientv3.WithSerializable())
	check("get at a revision", err)
	seen["old_value"] = string(old.Kvs[0].Value)
	page, err := c.Get(ctx, "p/", clientv3.WithPrefix(), clientv3.WithLimit(3),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	check("get a page", err)
	seen["page"], seen["page_count"], seen["page_more"] = string(page.Kvs[0].Key), page.Count, page.More
	deleted, err := c.Delete(ctx, "p/", clientv3.WithRange("p/5"))
	check("delete", err)
	seen["deleted"] = deleted.Deleted
	_, err = c.Put(ctx, "", "no key")
	seen["empty_key"] = errors.Is(err, rpctypes.ErrEmptyKey)
	_, err = c.Get(ctx, "k1", clientv3.WithRev(1<<40))
	seen["future_revision"] = errors.Is(err, rpctypes.ErrFutureRev)
}

func transactions(ctx context.Context, c *clientv3.Client) {
	create := func() bool {
		response, err := c.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision("once"), "=", 0)).
			Then(clientv3.OpPut("once", "1"), clientv3.OpGet("once")).
			Else(clientv3.OpGet("once")).
			Commit()
		check("txn", err)
		return response.Succeeded
	}
	seen["created"], seen["created_again"] = create(), create()
	_, err := concurrency.NewSTM(c, func(stm concurrency.STM) error {
		stm.Put("stm", stm.Get("once")+stm.Get("k1"))
		return nil
	})
	check("stm", err)
	got, err := c.Get(ctx, "stm")
	check("get after stm", err)
	seen["stm"] = string(got.Kvs[0].Value)
}

func watches(ctx context.Context, c *clientv3.Client) {
	watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	live := c.Watch(watching, "w/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	created, ok := <-live
	seen["watch_created"] = ok && created.Created
	first, err := c.Put(ctx, "w/a", "1")
	check("put w/a", err)
	_, err = c.Put(ctx, "w/a", "2")
	check("put w/a again", err)
	_, err = c.Delete(ctx, "w/a")
	check("delete w/a", err)
	read := func(from clientv3.WatchChan, count int) []string {
		var events []string
		for len(events) < count {
			response, ok := <-from
			if !ok || response.Err() != nil {
				check("watch", fmt.Errorf("ended after %v: %v", events, response.Err()))
			}
			for _, event := range response.Events {
				text := fmt.Sprintf("%s %s=%s", event.Type, event.Kv.Key, event.Kv.Value)
				if event.PrevKv != nil {
					text += " was " + string(event.PrevKv.Value)
				}
				events = append(events, text)
			}
		}
		return events
	}
	seen["events"] = read(live, 3)
	seen["events_from_the_past"] = read(c.Watch(watching, "w/a", clientv3.WithRev(first.Header.Revision)), 3)
	check("progress", c.RequestProgress(watching))
	progress := <-live
	seen["progress"] = progress.IsProgressNotify()
	cancel()
	for range live {
	}
}

func leases(ctx context.Context, c *clientv3.Client) {
	lease, err := c.Grant(ctx, 60)
	check("grant", err)
	_, err = c.Put(ctx, "leased", "1", clientv3.WithLease(lease.ID))
	check("put with a lease", err)
	alive, err := c.KeepAlive(ctx, lease.ID)
	check("keep alive", err)
	seen["kept_ttl"] = (<-alive).TTL
	left, err := c.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	check("time to live", err)
	seen["leased_keys"], seen["ttl_left"] = len(left.Keys), left.TTL > 50
	_, err = c.Revoke(ctx, lease.ID)
	check("revoke", err)
	gone, err := c.Get(ctx, "leased")
	check("get what was leased", err)
	seen["leased_after_revoke"] = gone.Count
	_, err = c.KeepAliveOnce(ctx, lease.ID)
	seen["lease_gone"] = errors.Is(err, rpctypes.ErrLeaseNotFound)
}

func compactions(ctx context.Context, c *clientv3.Client) {
	now, err := c.Get(ctx, "k1")
	check("get before compact", err)
	_, err = c.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	check("compact", err)
	_, err = c.Get(ctx, "k1", clientv3.WithRev(2))
	seen["compacted"] = errors.Is(err, rpctypes.ErrCompacted)
	response := <-c.Watch(ctx, "k1", clientv3.WithRev(2))
	seen["watch_compacted"] = errors.Is(response.Err(), rpctypes.ErrCompacted) && response.CompactRevision == now.Header.Revision
}

func members(ctx context.Context, c *clientv3.Client) {
	list, err := c.MemberList(ctx)
	check("member list", err)
	seen["members"] = len(list.Members)
	status, err := c.Status(ctx, c.Endpoints()[0])
	check("status", err)
	seen["leads"] = status.Leader == status.Header.MemberId
}

func main() {
	if len(os.Args) != 2 && len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: client ENDPOINT [CACERT CERT KEY]")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c := connect(os.Args[1:])
	keysAndValues(ctx, c)
	transactions(ctx, c)
	watches(ctx, c)
	leases(ctx, c)
	compactions(ctx, c)
	members(ctx, c)
	check("close", c.Close())
	text, err := json.MarshalIndent(seen, "", "  ")
	check("print", err)
	fmt.Println(string(text))
}
