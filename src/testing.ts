export * from './testing/locker-conformance.ts'
export * from './testing/session-store-conformance.ts'
export * from './testing/storage-conformance.ts'
