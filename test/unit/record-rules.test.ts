import { existsSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { allows, authorize, requireOpen } from '../../src/engine/authorization.ts'
import type { EngineParts } from '../../src/engine/engine-options.ts'
import { accepted, beginning, mayLeave, refusedAlready, withoutChunk } from '../../src/engine/first-bytes.ts'
import { takesParts } from '../../src/engine/part-sources.ts'
import { dropToken, hasCode, isDead, takeToken } from '../../src/engine/processes.ts'
import { isSameLease, requireVerified, stillOurs, wholeChecksums } from '../../src/engine/publishing.ts'
import { resumeIdOf } from '../../src/engine/resume-keys.ts'
import { UploadExpiredError, UploadLockedError, UploadNotFoundError } from '../../src/errors.ts'
import type { UploadSession } from '../../src/types.ts'
import { uploadRecord } from '../support/records.ts'

function caught(action: () => void): unknown {
  try {
    action()
    return null
  } catch (error) {
    return error
  }
}

describe('the first bytes', () => {
  const parts = (options: object) => ({ options: { hooks: {}, verifyMimeType: false, ...options } }) as EngineParts
  const wanted = parts({ verifyMimeType: true })

  it('stay here until they are accepted, when somebody wants to see them', () => {
    const record = uploadRecord({ totalSize: 3 * beginning, partSize: beginning })
    expect(mayLeave(wanted, record, 1)).toBe(false)
    expect(mayLeave(parts({ hooks: { onFirstBytes: () => {} } }), record, 1)).toBe(false)
    expect(mayLeave(wanted, record, 2)).toBe(true)
    expect(mayLeave(wanted, { ...record, partSize: beginning - 1 }, 2)).toBe(false)
    expect(mayLeave(parts({}), record, 1)).toBe(true)
    expect(mayLeave(wanted, accepted(record), 1)).toBe(true)
    expect(mayLeave(wanted, { ...record, partial: true }, 1)).toBe(true)
    expect(mayLeave(wanted, { ...record, direct: true }, 1)).toBe(true)
  })

  it('are to be looked at again when a chunk of them was replaced, or one whose place is not known', () => {
    const record = accepted(uploadRecord())
    expect(record.accepted).toBe(0)
    expect(withoutChunk(record, beginning)).toBe(record)
    expect(withoutChunk(record, beginning - 1)).toMatchObject({ beginnings: 1, accepted: 0 })
    expect(withoutChunk(record, null)).toMatchObject({ beginnings: 1 })
    const again = withoutChunk(withoutChunk(record, 0), 0)
    expect(again).toMatchObject({ beginnings: 2, accepted: 0 })
    expect(accepted(again).accepted).toBe(2)
    expect(mayLeave(wanted, again, 1)).toBe(false)
    expect(mayLeave(wanted, accepted(again), 1)).toBe(true)
  })

  it('that were refused stay refused, in the same words', () => {
    const refusal = { code: 'X', status: 415, message: 'no' }
    expect(refusedAlready(refusal)).toMatchObject({ ...refusal, details: { refusal } })
  })
})

describe('parts leave', () => {
  it('while the upload takes chunks or is being completed, but not once there is an object', () => {
    const states = ['active', 'completing', 'completed', 'aborted', 'expired'] as const
    const takers = (completing: boolean) => states.filter((state) => takesParts(uploadRecord({ state }), completing))
    expect(takers(false)).toEqual(['active', 'completing'])
    expect(takers(true)).toEqual(['completing'])
    expect(takesParts(uploadRecord({ state: 'completing', object: {} as never }), true)).toBe(false)
  })
})

describe('who may', () => {
  it('is everybody without a hook, and where it answers true or nothing', async () => {
    const ask = (answer: unknown) =>
      allows({ options: { hooks: { authorize: async () => answer } } } as never, 'read', null, null)
    expect(await allows({ options: { hooks: {} } } as never, 'read', null, null)).toBe(true)
    expect(await Promise.all([true, undefined].map(ask))).toEqual([true, true])
    expect(await Promise.all([false, null, 0, 1, 'yes', {}].map(ask))).toEqual(Array(6).fill(false))
  })

  it('gets the answer of an unknown id otherwise', async () => {
    const hooks = { authorize: (action: string) => action === 'read' }
    await authorize({ options: { hooks } } as never, 'read', null, null)
    await expect(authorize({ options: { hooks } } as never, 'write', null, null)).rejects.toBeInstanceOf(
      UploadNotFoundError,
    )
  })

  it('is told of an upload that was given up which of the two it was, and why', () => {
    for (const state of ['active', 'completing', 'completed'] as const) {
      expect(() => requireOpen(uploadRecord({ state }))).not.toThrow()
    }
    expect(caught(() => requireOpen(uploadRecord({ state: 'aborted' })))).toMatchObject({ code: 'UPLOAD_ABORTED' })
    const expired = caught(() => requireOpen(uploadRecord({ state: 'expired' })))
    expect(expired).toBeInstanceOf(UploadExpiredError)
    expect(expired).toMatchObject({ code: 'UPLOAD_EXPIRED', status: 410 })
    expect((expired as UploadExpiredError).details).toEqual({})
    const refusal = { code: 'X', status: 415, message: 'no' }
    expect(caught(() => requireOpen(uploadRecord({ state: 'aborted', refusal })))).toMatchObject({
      details: { refusal },
    })
  })
})

describe('a completer', () => {
  const held = (by: string | null) => uploadRecord({ completing: by === null ? null : { by, until: 9 } })

  it('has the lease that the record names, and nobody has one that is not there', () => {
    expect(isSameLease(held('a'), held('a'))).toBe(true)
    expect(isSameLease(held('a'), held('b'))).toBe(false)
    expect(isSameLease(held('a'), held(null))).toBe(false)
    expect(isSameLease(held(null), held('a'))).toBe(false)
    expect(isSameLease(held(null), held(null))).toBe(false)
  })

  it('changes the record only with its own lease, and hears when it has gone', async () => {
    const store = (stored: UploadSession | null) => {
      let current = stored
      const update = async (_: string, change: (session: UploadSession) => UploadSession) => {
        current = current && change(current)
        return current
      }
      return { parts: { sessions: { update } } as unknown as EngineParts, current: () => current }
    }
    const mark = (session: UploadSession) => ({ ...session, handedOver: true })
    const ours = store(held('a'))
    await stillOurs(ours.parts, held('a'), mark)
    expect(ours.current()?.handedOver).toBe(true)
    await stillOurs(ours.parts, held('a'))
    const others = store(held('b'))
    await expect(stillOurs(others.parts, held('a'), mark)).rejects.toBeInstanceOf(UploadLockedError)
    expect(others.current()?.handedOver).toBe(false)
    await expect(stillOurs(store(null).parts, held('a'))).rejects.toBeInstanceOf(UploadLockedError)
  })

  it('compares the bytes with the checksum of the upload and with its own', () => {
    const [first, second] = [
      `crc32:${Buffer.alloc(4).toString('base64')}`,
      `sha1:${Buffer.alloc(20).toString('base64')}`,
    ]
    const names = (created: string | null, given: string | null) =>
      wholeChecksums(uploadRecord({ checksum: created }), given).map(({ algorithm }) => algorithm)
    expect(names(null, null)).toEqual([])
    expect(names(first, null)).toEqual(['crc32'])
    expect(names(null, first)).toEqual(['crc32'])
    expect(names(first, first)).toEqual(['crc32'])
    expect(names(first, second)).toEqual(['crc32', 'sha1'])
  })

  it('may come late with a checksum only if it is the one that was looked for', () => {
    const code = (fields: Partial<UploadSession>, checksum: string | null) =>
      (caught(() => requireVerified(uploadRecord(fields), checksum)) as { code?: string } | null)?.code
    expect(code({}, null)).toBeUndefined()
    expect(code({ checksum: 'md5:x' }, 'md5:x')).toBe('CHECKSUM_TOO_LATE')
    expect(code({ checksum: 'md5:x', verified: 'md5:y' }, 'md5:x')).toBeUndefined()
    expect(code({ verified: 'md5:x' }, 'md5:x')).toBeUndefined()
    expect(code({ checksum: 'md5:y', verified: 'md5:z' }, 'md5:x')).toBe('CHECKSUM_TOO_LATE')
  })
})

describe('a piece of work', () => {
  /** Only Linux says when a process has begun. */
  const tellsStart = existsSync('/proc/self/stat')

  it('is alive until it is dropped, in this process', () => {
    const token = takeToken()
    expect(isDead(token)).toBe(false)
    expect(isDead(token, Number.MAX_SAFE_INTEGER)).toBe(false)
    expect(takeToken()).not.toBe(token)
    dropToken(token)
    expect(isDead(token)).toBe(true)
  })

  it('of a process that is no more, or whose id another has by now, is dead at once', () => {
    const [scope, pid, start, thread, sequence, random] = takeToken().split('.')
    const of = (changes: { pid?: string; start?: string; thread?: string; scope?: string }) =>
      [
        changes.scope ?? scope,
        changes.pid ?? pid,
        changes.start ?? start,
        changes.thread ?? thread,
        sequence,
        random,
      ].join('.')
    expect(isDead(of({ pid: '4194304', start: '1' }))).toBe(true)
    expect(isDead(of({ start: '1' }))).toBe(tellsStart)
    expect(isDead(of({ start: 'unknown' }))).toBe(false)
    // Another thread of ours tells nobody of its work.
    expect(isDead(of({ thread: '99' }))).toBe(false)
    expect(isDead(of({ pid: String(process.ppid), start: 'unknown' }))).toBe(false)
    expect(isDead(of({ pid: String(process.ppid), start: '1' }))).toBe(tellsStart)
  })

  it('of another machine is dead when nobody has touched its mark for more than five minutes', () => {
    const foreign = 'a-b-c.1.1.0.1.00'
    expect(isDead(foreign)).toBe(false)
    expect(isDead(foreign, 5 * 60_000)).toBe(false)
    expect(isDead(foreign, 5 * 60_000 + 1)).toBe(true)
    expect(isDead('', Number.MAX_SAFE_INTEGER)).toBe(false)
  })
})

it('an error has a code only if it says so', () => {
  expect(hasCode({ code: 'X' }, 'X')).toBe(true)
  expect([{ code: 'Y' }, {}, null, undefined, 'X'].map((error) => hasCode(error, 'X'))).toEqual(Array(5).fill(false))
})

it('the id of a resume key is bound to protocol and owner, and is no upload’s', () => {
  const key = { protocol: 'tus', owner: 'a', resumeKey: 'k' }
  const id = resumeIdOf(key)
  expect(id).toMatch(/^[0-9a-f]{64}$/)
  expect(resumeIdOf({ ...key })).toBe(id)
  const others = [
    { ...key, protocol: 'native' },
    { ...key, owner: 'b' },
    { protocol: 'tus', resumeKey: 'k' },
    { ...key, resumeKey: 'l' },
  ]
  expect(new Set([id, ...others.map(resumeIdOf)]).size).toBe(5)
})
