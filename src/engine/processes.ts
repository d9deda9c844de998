/** Which process is at work, and whether it still is. */
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, readFileSync, readlinkSync } from 'node:fs'
import { hostname, uptime } from 'node:os'
import { threadId } from 'node:worker_threads'

const unknown = 'unknown'
const bootId = '/proc/sys/kernel/random/boot_id'

/** Marks are touched every half minute while their work goes on; this long without is a death, ms. */
const foreignPatience = 5 * 60_000

const liveTokensKey = Symbol.for('nexus-uploader.liveTokens')

/**
 * A process is known by machine, boot and process-id space, id and start time, so that a reused id is not taken for it.
 * A machine that does not know itself is a new one with every boot.
 */
const self = {
  scope: [machine(), boot()].join('-'),
  pid: process.pid,
  start: startTimeOf(process.pid),
  thread: String(threadId),
}

/** Shared by all copies of this module in the thread: the ESM and the CJS build may both be loaded. */
const shared = globalThis as { [liveTokensKey]?: Set<string> }
const liveTokens = shared[liveTokensKey] ?? new Set<string>()
shared[liveTokensKey] = liveTokens
let sequence = 0

/** A name for one piece of work of this process: whoever reads it can tell whether that work can still go on. */
export function takeToken(): string {
  sequence += 1
  const { scope, pid, start, thread } = self
  const token = `${scope}.${pid}.${start}.${thread}.${sequence}.${randomBytes(4).toString('hex')}`
  liveTokens.add(token)
  return token
}

/** The work has ended, whether or not its name is still written somewhere. */
export function dropToken(token: string): void {
  liveTokens.delete(token)
}

/**
 * Whether the work under this name has certainly ended. `idle` is how long its mark has not been touched, ms: of a process
 * on another machine, or in a container that has been made anew, that is all there is to see.
 */
export function isDead(token: string, idle = 0): boolean {
  const [scope, pidText, start, thread] = token.split('.')
  if (scope !== self.scope) return isEarlierBoot(scope, idle) || (scope !== '' && idle > foreignPatience)
  const pid = Number(pidText)
  if (pid === self.pid && start === self.start) return thread === self.thread && !liveTokens.has(token)
  try {
    process.kill(pid, 0)
  } catch (error) {
    return hasCode(error, 'ESRCH')
  }
  const now = startTimeOf(pid)
  return now !== unknown && start !== unknown && start !== now
}

/**
 * Nothing outlives the boot of its machine: after a power cut nobody has to wait for the marks that are left. A mark that was
 * touched since is of another machine with the same name and id: of a clone, or of a container of the same image.
 */
function isEarlierBoot(scope = '', idle = 0): boolean {
  if (idle < uptime() * 1000) return false
  const [machineThen, kernelThen] = scope.split('-')
  const [machineNow, kernelNow] = self.scope.split('-')
  return machineThen !== '' && kernelThen !== undefined && machineThen === machineNow && kernelThen !== kernelNow
}

/** Empty where there is no id that outlives a boot, as in most containers: there a name may move to another machine. */
function machine(): string {
  const id = readOr('/etc/machine-id', '').trim()
  return id === '' || readOr(bootId, '') === '' ? '' : digest([hostname(), id])
}

function boot(): string {
  return [digest([hostname(), readOr(bootId, '')]), digest([linkOr('/proc/self/ns/pid', '')])].join('-')
}

function digest(parts: readonly string[]): string {
  return createHash('sha256').update(parts.join('\n')).digest('hex').slice(0, 12)
}

/**
 * Field 22 of `/proc/<pid>/stat` (clock ticks since boot); `ended` for a process that is no more, `unknown` where it cannot
 * be read: no `/proc`, no free descriptor, no permission.
 */
function startTimeOf(pid: number): string {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch (error) {
    const gone = hasCode(error, 'ENOENT') || hasCode(error, 'ESRCH')
    return gone && existsSync('/proc/self/stat') ? 'ended' : unknown
  }
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  // A zombie is only waiting to be reaped; it does nothing any more.
  return fields[0] === 'Z' ? 'ended' : (fields[19] ?? unknown)
}

function readOr(path: string, fallback: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return fallback
  }
}

function linkOr(path: string, fallback: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return fallback
  }
}

export function hasCode(error: unknown, code: string): boolean {
  return (error as { code?: unknown } | null)?.code === code
}
