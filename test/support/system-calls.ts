/** The system calls of a running process, in the order in which they began and ended: `strace` watches, this reads. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'

export interface SystemCall {
  readonly name: string
  readonly args: readonly string[]
  /** What it returned; negative for an error. */
  readonly result: number
  /** Places in the order of all beginnings and ends. */
  readonly begun: number
  readonly ended: number
}

/** Everything that changes files or names, or answers a client. */
const watched = [
  'open,openat,creat,truncate,ftruncate,fallocate,copy_file_range,sendfile',
  'write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,fsync,fdatasync',
  'rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir',
].join(',')

/** Why a process cannot be watched or hindered here; `null` when it can. */
export function straceMissing(): string | null {
  if (process.platform !== 'linux') return 'strace is for Linux'
  return ['/usr/bin/strace', '/usr/local/bin/strace'].some((path) => existsSync(path)) ? null : 'there is no strace'
}

export interface Tracer {
  /** Lets the process go on alone. */
  detach(): Promise<void>
}

/** Watches all threads of a process from now on. `options` of strace; the process goes on when strace is stopped. */
export async function trace(pid: number, options: readonly string[]): Promise<Tracer> {
  const strace = spawn('strace', ['-f', ...options, '-p', String(pid)], { stdio: ['ignore', 'ignore', 'pipe'] })
  const ended = new Promise<void>((resolve) => strace.once('exit', () => resolve()))
  await attached(strace)
  return {
    async detach() {
      // On SIGINT it detaches; killed for good it would do so too, but perhaps in the middle of a call.
      strace.kill('SIGINT')
      const late = setTimeout(() => strace.kill('SIGKILL'), 5_000).unref()
      await ended
      clearTimeout(late)
    },
  }
}

/** @param options more of them for strace: which calls are to fail, say */
export function watchFiles(pid: number, output: string, options: readonly string[] = []): Promise<Tracer> {
  return trace(pid, ['-yy', '-s', '1000000', '-e', `trace=${watched}`, ...options, '-o', output])
}

function attached(strace: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    let told = ''
    strace.stderr?.setEncoding('utf8').on('data', (text: string) => {
      told += text
      if (/attached/.test(told)) resolve()
    })
    strace.once('error', reject)
    strace.once('exit', (code) => reject(new Error(`strace ended with ${code}: ${told}`)))
  })
}

/** What strace wrote with `-f -yy`. Calls that never returned (the process was killed) are left out. */
export function readTrace(path: string): SystemCall[] {
  const calls: SystemCall[] = []
  const open = new Map<string, { text: string; begun: number }>()
  for (const [place, line] of readFileSync(path, 'latin1').split('\n').entries()) {
    const [, pid = '', text = ''] = /^(\d+) +(.*)$/.exec(line) ?? []
    if (text === '' || text.startsWith('+++') || text.startsWith('---')) continue
    if (text.endsWith('<unfinished ...>')) {
      open.set(pid, { text: text.slice(0, -'<unfinished ...>'.length).trimEnd(), begun: place })
      continue
    }
    const [resumed] = /^<\.\.\. \w+ resumed>/.exec(text) ?? []
    const before = resumed === undefined ? undefined : open.get(pid)
    if (resumed !== undefined && before === undefined) continue
    const whole = before ? before.text + text.slice(resumed?.length) : text
    const call = parseCall(whole, before?.begun ?? place, place)
    if (call) calls.push(call)
  }
  return calls.sort((a, b) => a.ended - b.ended)
}

function parseCall(text: string, begun: number, ended: number): SystemCall | null {
  const opening = text.indexOf('(')
  const closing = /\)\s+= (\?|-?\d+)(?:<.*>)?(?: [A-Z].*)?$/.exec(text)
  if (opening < 0 || !closing || closing[1] === '?') return null
  const args = splitTop(text.slice(opening + 1, closing.index))
  return { name: text.slice(0, opening), args, result: Number(closing[1]), begun, ended }
}

/** At the commas that are in no string, no bracket and no descriptor's name. */
function splitTop(text: string): string[] {
  const pieces: string[] = []
  let [depth, start, quoted] = [0, 0, false]
  for (let at = 0; at < text.length; at++) {
    const sign = text[at]
    if (quoted) {
      if (sign === '\\') at += 1
      else if (sign === '"') quoted = false
    } else if (sign === '"') quoted = true
    else if (sign === '[' || sign === '{' || sign === '<') depth += 1
    else if (sign === ']' || sign === '}' || (sign === '>' && text[at - 1] !== '-')) depth -= 1
    else if (sign === ',' && depth === 0) {
      pieces.push(text.slice(start, at).trim())
      start = at + 1
    }
  }
  if (text.trim() !== '') pieces.push(text.slice(start).trim())
  return pieces
}

/** `25</a/file>` or `25<TCP:[…]>`. */
export function descriptorOf(arg = ''): { fd: number; of: string } {
  const [, fd = '-1', of = ''] = /^(-?\w+)(?:<(.*)>)?$/s.exec(arg) ?? []
  return { fd: Number(fd), of }
}

const escapes: Readonly<Record<string, number>> = { n: 10, t: 9, r: 13, v: 11, f: 12 }

/** The bytes of a string as strace prints it. @throws Error when it was cut short */
export function bytesOf(arg = ''): Buffer {
  if (!arg.startsWith('"') || !arg.endsWith('"')) throw new Error(`no whole string: ${arg.slice(0, 80)}`)
  const text = arg.slice(1, -1)
  const bytes = Buffer.alloc(text.length)
  let size = 0
  for (let at = 0; at < text.length; at++) {
    if (text[at] !== '\\') {
      bytes[size++] = text.charCodeAt(at)
      continue
    }
    const [octal] = /^[0-7]{1,3}/.exec(text.slice(at + 1, at + 4)) ?? []
    const sign = text[at + 1] ?? ''
    bytes[size++] = octal === undefined ? (escapes[sign] ?? sign.charCodeAt(0)) : Number.parseInt(octal, 8)
    at += octal?.length ?? 1
  }
  return bytes.subarray(0, size)
}

/** The bytes that a call wrote, of one string or of a list of them. */
export function writtenBy({ args, result }: SystemCall): Buffer {
  const data = args[1] ?? ''
  if (data.startsWith('"')) return bytesOf(data).subarray(0, result)
  const bases = splitTop(data.slice(1, -1)).map((vector) => /^\{iov_base=(".*"), iov_len=\d+\}$/s.exec(vector)?.[1])
  return Buffer.concat(bases.map((base) => bytesOf(base))).subarray(0, result)
}
