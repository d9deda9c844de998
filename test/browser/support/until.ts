import { setTimeout as sleep } from 'node:timers/promises'

/** Looks every few milliseconds. */
export async function until(look: () => boolean | Promise<boolean>, what: string, timeout = 30_000): Promise<void> {
  const deadline = Date.now() + timeout
  while (!(await look())) {
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`)
    await sleep(5)
  }
}
