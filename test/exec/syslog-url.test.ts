import { describe, expect, test } from 'bun:test'
import { parseSyslogUrl } from '../../src/exec/syslog-url.ts'

describe('a syslog URL', () => {
  const taken: readonly [string, object][] = [
    ['udp://h', { transport: 'udp', host: 'h', port: 514 }],
    ['UDP://10.0.0.1:5140', { transport: 'udp', host: '10.0.0.1', port: 5140 }],
    ['tcp://[::1]:601/', { transport: 'tcp', host: '::1', port: 601 }],
    ['tcp://log', { transport: 'tcp', host: 'log', port: 514 }],
    ['tcp+tls://log.example.com', { transport: 'tls', host: 'log.example.com', port: 6514 }],
    ['unix:///run/log%20s', { transport: 'unix', path: '/run/log s' }],
    ['unixgram:/dev/log', { transport: 'unixgram', path: '/dev/log' }],
  ]
  for (const [url, target] of taken) {
    test(`${url} is taken`, () => {
      expect(parseSyslogUrl(url)).toMatchObject({ ok: true, target: { url, ...target } })
    })
  }

  const schemes = 'invalid scheme, only [tcp, udp, unix, unixgram, tcp+tls] are supported'
  const refused: readonly [string, string][] = [
    ['http://h', schemes],
    ['log:514', schemes],
    ['514', schemes],
    ['udp://', 'no host, as in udp://host'],
    ['udp://h:70000', 'not a URL'],
    ['udp://h:0', 'port 0 is no port'],
    ['udp://h%0a', 'invalid host'],
    ['tcp://h/path', 'it may hold no path'],
    ['tcp://u:p@h', 'it may hold no user, query or fragment'],
    ['tcp://h?x', 'it may hold no user, query or fragment'],
    ['unix://run/log', 'no absolute path, as in unix:///dev/log'],
    ['unix:///', 'no absolute path, as in unix:///dev/log'],
    ['unix:///%ff', 'no absolute path, as in unix:///dev/log'],
    ['unixgram:///a%00b', 'invalid path'],
    [`unixgram:///${'x'.repeat(107)}`, 'the path is longer than 107 bytes'],
  ]
  for (const [url, reason] of refused) {
    test(`${url.slice(0, 40)} is refused`, () => {
      expect(parseSyslogUrl(url)).toEqual({ ok: false, reason })
    })
  }
})
